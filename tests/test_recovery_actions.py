"""A fault touches what its name stands for at that moment, one process or all of several that were asked for, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from orphans import orphans

from tapecheck.errors import ConfigError
from tapecheck.recovery import actions
from tapecheck.recovery.drill import check_processes
from tapecheck.recovery.experiment import Drill, chosen
from tapecheck.target.file import Target

IDLE = "import sys; print('runs', flush=True); sys.stdin.read()"


@pytest.fixture
def service(tmp_path: Path) -> list[str]:
    """The command of a service that no other process of this machine has."""
    script = tmp_path / f"service_{os.getpid()}.py"
    script.write_text(IDLE)
    return [sys.executable, str(script)]


def named(service: list[str], **more: object) -> dict[str, Any]:
    """Return the configuration of an experiment about it."""
    return {"processes": {"api": {"command": Path(service[1]).name, **more}}}


def drill() -> Drill:
    (found,) = chosen("api_killed")
    return found


def target(selector: dict[str, object]) -> Target:
    said = {"name": "t", "kind": "external", "base_url": "http://127.0.0.1:1", "requests": {"one": "GET /"}, "processes": {"api": selector}}
    return Target.model_validate(said)


@pytest.mark.parametrize("break_it", [actions.kill, actions.freeze])
def test_several_processes_of_one_name_are_refused(service: list[str], break_it: Callable[[str, Any], object]) -> None:
    """Before the run and again before each fault, with the pid and command line of each; nothing is touched."""
    with orphans(service, [*service, "second"]) as (one, other):
        listed = "; ".join(f"pid {pid}: {service[0]}.*" for pid in sorted([one.pid, other.pid]))
        said = rf"2 processes \({listed}\)"
        with pytest.raises(RuntimeError, match=rf"^api .* names {said}; nothing was touched$"):
            break_it("api", named(service))
        with pytest.raises(ConfigError, match=rf"processes\.api: got {said}; allowed: a pid, port or command of exactly one"):
            check_processes(target(named(service)["processes"]["api"]), [drill()])
        assert psutil.STATUS_STOPPED not in {one.status(), other.status()}


def test_all_of_several_are_broken_where_that_is_asked_for(service: list[str]) -> None:
    """`all: true` beside the selector."""
    with orphans(service, service) as both:
        check_processes(target(named(service, all=True)["processes"]["api"]), [drill()])
        assert {*actions.kill("api", named(service, all=True))["pids"]} == {one.pid for one in both}
        assert psutil.wait_procs(both, timeout=20)[1] == []


def test_what_only_mentions_the_name_is_left_alone(service: list[str]) -> None:
    """A supervisor whose program text holds the path, and a reader of a log with a longer name, live on."""
    mentions = (
        ["-c", f"{IDLE}\n# {service!r}"],
        ["-c", IDLE, f"{service[1]}.log"],
        ["-c", IDLE, f"--log={service[1]}"],
        ["-c", IDLE, service[1]],
    )
    bystanders = [[sys.executable, *words] for words in mentions]
    with orphans(service, *bystanders) as (api, *others):
        check_processes(target(named(service)["processes"]["api"]), [drill()])
        assert actions.kill("api", named(service))["pids"] == [api.pid]
        assert psutil.wait_procs([api], timeout=20)[1] == []
        said = rf"it is only an argument of pid {others[-1].pid}: .*{Path(service[1]).name}; nothing was touched$"
        with pytest.raises(RuntimeError, match=said):
            actions.kill("api", named(service))
        assert all(one.is_running() for one in others)


def test_nobody_is_said_before_the_run(service: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stands for no process, or for this run alone, is refused before anything is measured."""
    monkeypatch.setattr(actions, "_sent", lambda process, number: [process.pid])  # a selector gone wrong is not to end the tests
    for selector in (named(service)["processes"]["api"], {"pid": os.getpid()}, {"pid": os.getppid()}):
        with pytest.raises(ConfigError, match=r"got no process of this machine \(those that run the drill never count\); allowed: a pid"):
            check_processes(target(selector), [drill()])
        with pytest.raises(RuntimeError, match=r"^api .* names no process of this machine .*; nothing was touched$"):
            actions.kill("api", {"processes": {"api": selector}})


def test_a_second_process_that_has_come_stops_the_fault_and_not_its_end(service: list[str]) -> None:
    """What was one process before the run is looked for again at the moment of the fault; only what is frozen is thawed."""
    with orphans(service) as (one,):
        check_processes(target(named(service)["processes"]["api"]), [drill()])
        with orphans(service), pytest.raises(RuntimeError, match="names 2 processes"):
            actions.freeze("api", named(service))
        assert actions.freeze("api", named(service))["pids"] == [one.pid]
        with orphans(service):
            assert actions.thaw("api", named(service))["pids"] == [one.pid]
            assert one.status() != psutil.STATUS_STOPPED
            assert actions.thaw("api", named(service))["pids"] == []


RUN = """
import subprocess, sys
runner = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(runner.stdout.readline(), end="", flush=True)
runner.kill()
runner.wait()
sys.stdin.read()
"""
RUNNER = """
import signal
from tapecheck.recovery.watchdog import Watchdog
kill = {{"type": "action", "name": "kill", "provider": {{"type": "python", "module": "tapecheck.recovery.actions", "func": "kill",
        "arguments": {{"process": "api"}}}}}}
with Watchdog() as watchdog:
    watchdog.arm({{"title": "t", "description": "d", "configuration": {named!r}, "method": [], "rollbacks": [kill]}}, "mend it")
    print(watchdog._process.pid, flush=True)
    signal.pause()
"""


def test_a_watchdog_spares_what_started_the_run_that_died(service: list[str]) -> None:
    """It is nobody's child when it acts, and kills by a name that the run's own parent has too: only the other one dies."""
    Path(service[1]).write_text(f"import sys\nif len(sys.argv) > 1:\n    exec({RUN!r})\nelse:\n    {IDLE}")
    runner = RUNNER.format(named=named(service, all=True))
    with (
        orphans(service) as (other,),
        subprocess.Popen([*service, runner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent,
    ):
        assert parent.stdout is not None
        watchdog = psutil.Process(int(parent.stdout.readline()))
        assert psutil.wait_procs([watchdog], timeout=60)[1] == []
        assert psutil.wait_procs([other], timeout=20)[1] == []
        assert parent.poll() is None, "it killed what had started it"
