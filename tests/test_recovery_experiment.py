"""Drills are Chaos Toolkit experiments with our extension: what is shipped is valid, and every mistake is named before any fault."""

import asyncio
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import servers
import yaml
from chaoslib.exceptions import ActivityFailed
from chaoslib.provider.http import run_http_activity
from click.testing import CliRunner
from servers import Server

from tapecheck import config
from tapecheck.__main__ import main
from tapecheck.errors import ConfigError
from tapecheck.recovery import experiment
from tapecheck.recovery.contradictions import read_plan
from tapecheck.recovery.drill import check_allowed
from tapecheck.recovery.validation import recovery
from tapecheck.runs import batch
from tapecheck.target.file import Target
from tapecheck.target.loopback import only

with warnings.catch_warnings():  # of Chaos Toolkit's command line about what it imports
    warnings.simplefilter("ignore")
    from chaostoolkit.cli import cli

SHIPPED = sorted(config.CONFIG.glob("drills/**/*.yaml"))


def test_chaos_validate_accepts_every_file() -> None:
    """Chaos Toolkit's own command line takes what we ship."""
    for path in SHIPPED:
        done = CliRunner().invoke(cli, ["--no-version-check", "--no-log-file", "validate", str(path)])
        assert done.exit_code == 0, done.output
        experiment.read(path)


def test_every_failure_of_the_plan_has_a_drill_that_takes_its_fault_away() -> None:
    """And so have hangs of each process; each freeze has a thaw among its rollbacks, each fault of upstream's is switched off."""
    drills = experiment.chosen("all")
    assert {drill.watching.failure for drill in drills} == set(read_plan("config/rto_rpo.yaml").rto)
    assert {"scheduler_frozen", "database_frozen", "api_frozen"} < {drill.name for drill in drills}
    for drill in drills:
        method, rollbacks = (str(drill.experiment[section]) for section in ("method", "rollbacks"))
        assert ("'freeze'" in method) <= ("'thaw'" in rollbacks), drill.name
        assert ("/faults" in method) <= ("DELETE" in rollbacks), drill.name


ACTION = "{type: action, name: %s, provider: {type: python, module: tapecheck.recovery.actions, func: %s, arguments: {process: api}}}"
GOOD = f"""
title: t
description: d
steady-state-hypothesis:
  title: s
  probes:
    - {{type: probe, name: p, tolerance: 200, provider: {{type: http, url: "${{base_url}}/health"}}}}
method: [{ACTION % ("freeze", "freeze")}]
rollbacks: [{ACTION % ("thaw", "thaw")}]
extensions:
- {{name: tapecheck, failure: api_crash, inject: freeze, repair: thaw it, views: {{service: {{request: GET /health, serves: true}}}}}}
"""


def written(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    data = yaml.safe_load(GOOD)
    change(data)
    path = folder / "drill.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


MISTAKES: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no method", lambda d: d.pop("method"), r"\(experiment\): got an experiment requires a method"),
    ("no title", lambda d: d.pop("title"), r"\(experiment\): got experiment requires a title"),
    ("no rollbacks", lambda d: d.pop("rollbacks"), r"rollbacks: got nothing; allowed: what takes the fault away, whatever happens"),
    ("no steady state", lambda d: d.pop("steady-state-hypothesis"), r"steady-state-hypothesis: got nothing; allowed: what holds before"),
    ("no extension", lambda d: d.pop("extensions"), r"extensions: got none named tapecheck; allowed: extensions: \[\{name: tapecheck"),
    ("unknown function", lambda d: d["method"][0]["provider"].update(func="crush"), r"method.0.provider: got 'crush'; allowed: one"),
    (
        "unknown argument", lambda d: d["method"][0]["provider"]["arguments"].update(force=1),
        r"method.0.provider: got freeze: got an unexpected keyword argument 'force'; allowed: \(process: str",
    ),
    ("no argument", lambda d: d["rollbacks"][0]["provider"].pop("arguments"), r"rollbacks.0.provider: got thaw: missing .*'process'"),
    ("no module", lambda d: d["method"][0]["provider"].pop("module"), r"method.0.provider: got module None, func 'freeze'"),
    ("method is text", lambda d: d.update(method="freeze"), r"\(experiment\): got .*allowed: what `chaos validate` accepts"),
    ("inject is elsewhere", lambda d: d["extensions"][0].update(inject="melt"), r"inject: got 'melt'; allowed: .* method: \['freeze'\]"),
    ("unknown key", lambda d: d["extensions"][0].update(fast=True), r"fast: unknown key `fast`; available: name, failure"),
    ("nothing serves", lambda d: d["extensions"][0]["views"]["service"].pop("serves"), r"views: got none with serves: true"),
    ("no repair", lambda d: d["extensions"][0].pop("repair"), r"repair: missing required key `repair`"),
    (
        "SELECT with conditions", lambda d: d["extensions"][0]["views"].update(db={"request": "SELECT 1", "degraded": {}}),
        r"views.db: .*a SELECT alone, without conditions",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), [(change, said) for _, change, said in MISTAKES], ids=[name for name, _, _ in MISTAKES])
def test_a_mistake_is_named_before_any_fault(tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    """File, key, what was got and what is allowed."""
    path = written(tmp_path, change)
    with pytest.raises(ConfigError) as caught:
        experiment.read(path)
    assert re.search(said, str(caught.value)), caught.value
    assert str(path) in str(caught.value)


def test_drills_are_chosen_by_name_or_path(tmp_path: Path) -> None:
    """Names with commas, one of the words, or an experiment of one's own; for any other name the message lists what there is."""
    for names, count in {"none": 0, "freshness": 0, "api_killed": 1, "api_killed, api_frozen": 2}.items():
        assert len(experiment.chosen(names)) == count
    (drill,) = experiment.chosen(str(written(tmp_path, lambda data: None)))
    assert (drill.name, drill.watching.inject, drill.places) == ("drill", "freeze", {"base_url"})
    allowed = "allowed: all, freshness, none, a path of a YAML file, or some of api_frozen"
    with pytest.raises(ConfigError, match=f"drills: got api_exploded; {allowed}"):
        experiment.chosen("api_exploded")


# ---- a drill is code ----

CALL = {"type": "python", "module": "evil_mod", "func": "go"}
TOUCH = {"type": "process", "path": "touch", "arguments": ["MARK"]}
RUN = {"type": "python", "module": "chaoslib.provider.process", "func": "run_process_activity"}
ELSEWHERE = {"type": "http", "url": "http://127.0.0.1:2375/containers/create", "method": "POST"}
COPY = {"request": "SELECT 1; COPY (SELECT 1) TO PROGRAM 'id'"}
PLACES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an action": lambda d: d["method"].append({"type": "action", "name": "evil", "provider": CALL}),
    "a rollback": lambda d: d["rollbacks"].append({"type": "action", "name": "evil", "provider": CALL}),
    "a tolerance": lambda d: d["steady-state-hypothesis"]["probes"][0].update(
        tolerance={"type": "probe", "name": "evil", "provider": CALL | {"arguments": {"value": 1}}}
    ),
    "a control": lambda d: d.update(controls=[{"name": "evil", "provider": CALL}]),
    "the configuration": lambda d: d.update(configuration={"x": {"type": "probe", "name": "evil", "provider": CALL}}),
    "a program": lambda d: d.update(configuration={"x": {"type": "probe", "name": "evil", "provider": TOUCH}}),
    "Chaos Toolkit's own": lambda d: d["method"].append({"type": "action", "name": "evil", "provider": RUN}),
    "a request": lambda d: d["rollbacks"].append({"type": "action", "name": "evil", "provider": ELSEWHERE}),
    "a statement": lambda d: d["extensions"][0]["views"].update(db=COPY),
    "a variable": lambda d: d.update(configuration={"x": {"type": "env", "key": "AWS_SECRET_ACCESS_KEY"}}),
}
SAID = {
    "a program": "the program touch", "Chaos Toolkit's own": "chaoslib.provider.process.run_process_activity",
    "a request": f"a request to {ELSEWHERE['url']}", "a statement": COPY["request"], "a variable": "env AWS_SECRET_ACCESS_KEY",
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_code_of_others_is_named_and_neither_imported_nor_run_before_it_is_allowed(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever Chaos Toolkit would take it: checking reads the file, and a target, the sandbox too, must say `allow_drills: true`."""
    mark = tmp_path / "imported"
    (tmp_path / "evil_mod.py").write_text(f"open({str(mark)!r}, 'w')\ndef go(**_): pass")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TOUCH, "arguments", [str(mark)])
    path = written(tmp_path, PLACES[place])
    assert main(["check", str(path)]) == 0
    said = SAID.get(place, "evil_mod.go")
    assert f"{path} runs code, which needs `allow_drills: true` on the target: {said}\n" in capsys.readouterr().out
    (drill,) = experiment.chosen(str(path))
    given = {"name": "t", "base_url": "http://127.0.0.1:1", "requests": {"one": "GET /"}, "processes": {"api": {"port": 1}}}
    with pytest.raises(
        ConfigError, match=rf"allow_drills: got false, while drill runs {re.escape(said)}; allowed: allow_drills: true, if you have"
    ):
        recovery.check_target(Target.model_validate(given | {"kind": "sandbox"}), None, {"drills": str(path)})
    database = {"backfill": {"source_url": "http://127.0.0.1:1", "database_url": "postgresql://u@127.0.0.1/d"}}
    check_allowed(Target.model_validate(given | database | {"kind": "external", "allow_drills": True}), [drill])
    assert not mark.exists()
    assert [one.name for one in experiment.chosen("all") if one.code] == []


def test_where_a_drill_acts_is_what_the_target_says_and_nothing_else(tmp_path: Path) -> None:
    """A database of the drill's own is none, where the target names none: it may be anybody's."""
    own = {"base_url": "http://db.example.com", "database_url": "postgresql://db.example.com/x", "unit": "mine"}
    drill = experiment.read(written(tmp_path, lambda d: d.update(configuration=own)))
    assert drill.with_values({"base_url": "http://127.0.0.1:1"})["configuration"] == {"base_url": "http://127.0.0.1:1", "unit": "mine"}


async def start_and_end_a_kernel(scratch: Path) -> None:
    """Start the kernel of a run in the current folder, and end it when it answers."""
    manager = batch._manager(scratch, None)(kernel_name="python3")
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=120)
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


def test_the_current_folder_holds_no_part_of_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever modules lie where a command is given: neither it, nor a kernel that it starts, nor a drill's watchdog imports one."""
    folder = tmp_path / "current"
    folder.mkdir()
    for name in ("argparse", "json", "pickle", "socket", "yaml", "psutil", "numpy", "IPython", "chaoslib", "requests"):
        (folder / f"{name}.py").write_text(f"open('imported-{name}', 'w')")
    monkeypatch.chdir(folder)
    for words in (["tapecheck", "check"], ["tapecheck.recovery.watchdog"]):
        done = subprocess.run([sys.executable, "-m", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    asyncio.run(start_and_end_a_kernel(tmp_path))
    assert list(folder.glob("imported-*")) == []


# ---- requests of drills ----


def ask(url: str, *, allow_remote: bool = False) -> dict[str, Any]:
    """Ask as a drill does."""
    with only(not allow_remote):
        answer: dict[str, Any] = run_http_activity({"provider": {"type": "http", "url": url, "timeout": 20}}, {}, {})
    return answer


def test_a_drill_asks_this_machine_directly_and_nobody_else_without_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxies the environment names, and wherever a redirect leads; with leave a proxy is used beyond this machine."""
    elsewhere = "http://192.0.2.1:8000/x"  # reserved for documentation: nobody is there
    redirect = servers.raw(f"HTTP/1.1 302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n".encode())
    with Server(servers.fast) as proxy, Server(servers.fast) as target, Server(redirect) as leading_away:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert ask(target.url)["status"] == ask(target.url, allow_remote=True)["status"] == 200
        for url in (elsewhere, leading_away.url):
            with pytest.raises(ActivityFailed, match=r"192\.0\.2\.1 is beyond this machine"):
                ask(url)
        assert proxy.seen.requests == 0 and target.seen.requests == 2
        assert ask(elsewhere, allow_remote=True)["status"] == 200 and proxy.seen.requests == 1


NOTIFY = {"type": "action", "name": "tell", "provider": {"type": "http", "url": "https://hooks.example.com/x"}}


def test_a_request_beyond_this_machine_is_refused_before_any_fault(tmp_path: Path) -> None:
    """Where the file says it."""
    path = written(tmp_path, lambda d: d["method"].append(NOTIFY))
    said = {"name": "t", "kind": "external", "base_url": "http://127.0.0.1:1", "requests": {"one": "GET /"}, "allow_drills": True}
    target = Target.model_validate(said | {"processes": {"api": {"port": 1}}})
    with pytest.raises(ConfigError, match=r"requests to https://hooks.example.com/x; allowed: loopback addresses; or allow_remote: true"):
        check_allowed(target, [experiment.read(path)])
    check_allowed(target.model_copy(update={"allow_remote": True}), [experiment.read(path)])
