"""Drills on the real sandbox: what is broken comes back, and whatever happens to the drill, its fault is taken away."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import psycopg
import pyarrow.compute as pc
import pytest
import yaml
from chaoslib.run import Runner
from chaoslib.types import Strategy

from tapecheck.errors import ConfigError, RollbackError
from tapecheck.recovery import actions, drill, experiment, timeline, watchdog
from tapecheck.recovery.analysis import check_failures
from tapecheck.recovery.contradictions import read_plan
from tapecheck.recovery.drill import Done, DrillTarget, check_allowed
from tapecheck.recovery.experiment import Drill
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.recovery.recording import INVALID, MEASURED
from tapecheck.recovery.watchdog import Watchdog
from tapecheck.sandbox.profile import Home
from tapecheck.target.file import Target
from tapecheck.target.opening import SandboxState, open_target

FOREVER_S = 240
SCHEDULE = ProbeSchedule(settle_s=0.3, slow_s=30, timeout_s=60)  # a busy machine answers late, and is no broken target
SANDBOX = "config/targets/sandbox.yaml"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for what is to come as long as a test may last."""
    monkeypatch.setattr(drill, "STEADY_S", float(FOREVER_S))


@pytest.fixture
def api(sandbox: SandboxState) -> Iterator[httpx.Client]:
    """A client of the sandbox's api, which serves after each test."""
    with httpx.Client(base_url=sandbox.base_url, timeout=60, trust_env=False) as client:
        until(lambda: client.get("/health").json()["status"] == "ok")
        yield client
        until(lambda: client.get("/health").json()["status"] == "ok")


def until(condition: Callable[[], Any], timeout_s: float = 180.0) -> Any:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s")


@pytest.fixture(scope="module")
def opened(sandbox: SandboxState) -> DrillTarget:
    return DrillTarget.of(open_target(SANDBOX))


@pytest.fixture
def where(opened: DrillTarget, api: httpx.Client) -> DrillTarget:
    """The sandbox, opened once for all drills as in a run of several, and well before and after each."""
    return opened


def shipped(name: str) -> Drill:
    """Return a shipped drill that waits for each event as long as a test may last."""
    (found,) = experiment.chosen(name)
    return replace(found, experiment=patiently(found.experiment))


def patiently(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: FOREVER_S if key in ("within_s", "timeout") else patiently(value) for key, value in data.items()}
    return [patiently(one) for one in data] if isinstance(data, list) else data


def changed(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Drill:
    """Return a shipped drill with a change."""
    data = patiently(yaml.safe_load(shipped(name).path.read_text()))
    change(data)
    path = folder / f"{name}_changed.yaml"
    path.write_text(yaml.safe_dump(data))
    return experiment.read(path)


@pytest.fixture(scope="module")
def guard() -> Iterator[Watchdog]:
    """The watchdog of all drills that roll back themselves, as in a run of several."""
    with Watchdog() as one:
        yield one


def run(one: Drill, where: DrillTarget, guard: Watchdog) -> Done:
    """Run a drill as a run of several does: what must end that is raised."""
    done = drill.run(one, where, SCHEDULE, guard, 1)
    if done.stop is not None:
        raise done.stop
    return done


def clocks(done: Done) -> timeline.Clocks:
    assert done.trial.injected_ns is not None
    return timeline.clocks(timeline.seen(done.probes), done.trial.injected_ns, slow_ns=int(SCHEDULE.slow_s * 1e9))


def frozen() -> list[int]:
    """Return the pids of this sandbox's processes that are stopped."""
    home = os.environ["TAPECHECK_SANDBOX_HOME"]
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if home in " ".join(process.info["cmdline"] or []) and process.info["status"] == psutil.STATUS_STOPPED:
            found.append(process.pid)
    return found


SHIPPED = (
    "api_killed", "scheduler_killed", "feature_failure", "database_frozen", "database_connections_terminated",
    "upstream_rate_limited_with_retry_after", "database_restored_from_dump", "partition_api_database_black_hole",
    "partition_scheduler_vendor_reset",
)  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_broken_comes_back(where: DrillTarget, guard: Watchdog, name: str) -> None:
    """Steady before and after, rolled back, journaled; and each drill shows what it is for, however slow the answers are."""
    done = run(shipped(name), where, guard)
    trial, found = done.trial, clocks(done)
    assert (trial.state, trial.steady_before, trial.steady_after, trial.rolled_back) == (MEASURED, True, True, True)
    assert done.journal["status"] == "completed" and "experiment" not in done.journal
    assert found.recover_s is not None and found.degraded_s is not None and found.degraded_s <= found.recover_s
    assert frozen() == []
    if name == "api_killed":
        assert found.first_bad_s is not None and found.recover_s > 0.2
    elif name == "scheduler_killed":  # it resumes from its checkpoints, does nothing twice, and the API serves all along
        assert trial.after["resumed"] >= 30  # six symbols, and what other tests asked for
        assert trial.after["skipped"] + trial.after["runs"] >= trial.after["resumed"] and trial.after["redone"] == 0
        assert set(done.probes.filter(pc.equal(done.probes["view"], "service"))["status"].to_pylist()) <= {0, 200}
    elif name == "database_frozen":  # served from the cache, and full again only after the thaw
        assert trial.released_ns is not None and trial.injected_ns is not None
        assert found.recover_s >= (trial.released_ns - trial.injected_ns) / 1e9 - 0.2
    elif name.startswith("partition_"):  # over only when it is healed; afterwards nobody goes over the link
        assert trial.released_ns is not None and trial.injected_ns is not None
        assert found.recover_s >= (trial.released_ns - trial.injected_ns) / 1e9 - 0.2
        assert not Home().links.exists()
    elif name == "database_restored_from_dump":  # every row is back, and what was asked for meanwhile was served from memory
        assert trial.restore is not None and trial.injected_ns is not None and trial.restore.switched_ns is not None
        assert (trial.restore.exact, trial.restore.different, trial.restore.unusable) == (True, [], "")
        assert found.recover_s > (trial.restore.switched_ns - trial.injected_ns) / 1e9 - 0.2
    if name in ("scheduler_killed", "feature_failure", "database_frozen"):
        assert found.detect_s is not None
    assert where.database_url and where.source_key
    for text in (repr(where), str(done.journal), str(trial)):
        assert where.database_url not in text and where.source_key not in text


def test_without_a_steady_state_nothing_is_broken(where: DrillTarget, guard: Watchdog, tmp_path: Path) -> None:
    """A target that is not well before a drill makes it invalid, not failed, and is left alone."""
    before = psutil.Process(find(where, "api")).create_time()
    one = changed(tmp_path, "api_killed", lambda data: data["steady-state-hypothesis"]["probes"][0].update(tolerance=418))
    trial = run(one, where, guard).trial
    assert (trial.state, trial.injected_ns) == (INVALID, None)
    assert trial.reason.startswith("the steady state did not hold before the fault")
    assert psutil.Process(find(where, "api")).create_time() == before


def test_a_database_whose_backup_was_never_made_is_not_dropped(where: DrillTarget, guard: Watchdog, tmp_path: Path) -> None:
    """The trial says why, and the target is left as it was."""
    assert where.target.database is not None and where.database_url is not None
    folder = str(tmp_path / "none")
    there = where.target.model_copy(update={"database": where.target.database.model_copy(update={"backups": folder})})
    one = changed(tmp_path, "database_restored_from_dump", lambda data: data["method"].pop(0))
    trial = run(one, replace(where, target=there), guard).trial
    assert trial.restore is not None
    assert (trial.state, trial.injected_ns, trial.rolled_back) == (INVALID, None, True)
    assert trial.restore.unusable == f"no backup was ever made: {folder} holds none" and trial.restore.unusable in trial.reason
    with psycopg.connect(where.database_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def find(where: DrillTarget, name: str) -> int:
    port = where.processes[name]["port"]
    return next(c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port and c.pid)


@pytest.mark.parametrize(
    ("name", "misses", "said"),
    [
        ("api_killed", lambda m: m[0].update(provider={"type": "process", "path": "false"}), "kill the API: "),
        ("upstream_rate_limited", lambda m: m[1]["provider"].update(url="${base_url}/no-such-trigger"), "ask for a refresh: "),
    ],
)
def test_a_fault_that_cannot_be_injected_is_invalid(
    where: DrillTarget, guard: Watchdog, tmp_path: Path, name: str, misses: Callable[[Any], object], said: str
) -> None:  # fmt: skip
    """A drill that breaks nothing says nothing; nor does one that needs work to fail on: Chaos Toolkit takes a 404 for a success."""
    done = run(changed(tmp_path, name, lambda data: misses(data["method"])), where, guard)
    assert done.trial.state == INVALID
    assert done.trial.reason.startswith(f"the fault could not be injected as planned: {said}")


def test_a_rollback_that_fails_is_loud_and_says_what_to_do(where: DrillTarget, guard: Watchdog, tmp_path: Path) -> None:
    """Exit code 3, the drill's name in capitals, and the repair by hand; of the watchdog, whose last resort fails, too."""
    never = {"type": "action", "name": "never", "provider": {"type": "process", "path": "false"}}
    one = changed(tmp_path, "api_frozen", lambda data: data.update(rollbacks=[never]))
    said = rf"THE DRILL api_frozen_changed COULD NOT BE ROLLED BACK \(never: .*\). Repair by hand: kill -CONT {find(where, 'api')}$"
    with pytest.raises(RollbackError, match=said):
        run(one, where, guard)
    guard.disarm()  # it would try that again
    assert RollbackError.exit_code == 3
    with pytest.raises(RollbackError, match=r"not even by its watchdog\. Repair by hand: mend it"), Watchdog() as watchdog:
        watchdog.arm({"title": "t", "description": "d", "method": [], "rollbacks": [never]}, "mend it")


def test_only_connections_to_the_target_are_ended(where: DrillTarget, database_url: str) -> None:
    """Clients of another database of the same server go on; and libpq would take an empty URL for whatever server it finds."""
    for configuration in ({}, {"database_url": ""}):
        with pytest.raises(RuntimeError, match="names no database; nothing was ended"):
            actions.terminate_connections(configuration)
    other = psycopg.conninfo.make_conninfo(database_url, dbname="template1")
    with psycopg.connect(other, autocommit=True) as bystander, psycopg.connect(database_url, autocommit=True) as client:
        actions.terminate_connections({"database_url": database_url})
        assert bystander.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")


def endless(data: dict[str, Any]) -> None:
    """Freeze the API for much longer than a test lasts."""
    data["method"][0]["pauses"] = {"after": FOREVER_S}


def never_thawed(data: dict[str, Any]) -> None:
    """Wait in an activity for an API that nobody thaws."""
    data["method"][0].pop("pauses")
    data["method"][2]["provider"]["arguments"]["within_s"] = FOREVER_S
    del data["method"][1]
    data["extensions"][0].pop("release")


@pytest.mark.interrupts_itself
@pytest.mark.parametrize(("number", "change"), [(signal.SIGINT, never_thawed), (signal.SIGTERM, endless)])
def test_an_interrupt_rolls_back_first(
    where: DrillTarget, guard: Watchdog, tmp_path: Path, number: signal.Signals, change: Callable[[dict[str, Any]], None]
) -> None:  # fmt: skip
    """Ctrl-C and SIGTERM in mid-drill end it at once, in a pause and in an activity, with the API thawed."""
    one, begun_s = changed(tmp_path, "api_frozen", change), time.monotonic()
    killer = threading.Thread(target=lambda: (until(frozen), os.kill(os.getpid(), number)))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        run(one, where, guard)
    killer.join()
    assert frozen() == []
    assert time.monotonic() - begun_s < FOREVER_S, "it went on to its end"


def interrupt() -> None:
    """Be interrupted, as an activity of Chaos Toolkit's."""
    raise KeyboardInterrupt


def test_an_interrupt_within_an_activity_skips_the_pause_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come just when the fault is on and noted: the rollback begins at once, whatever pause was planned."""
    slept: list[float] = []
    monkeypatch.setattr("chaoslib.activity.time", SimpleNamespace(sleep=slept.append))
    interrupts = {"type": "python", "module": __name__, "func": interrupt.__name__}
    experiment = {
        "title": "interrupted",
        "description": "in its activity",
        "method": [{"type": "action", "name": "freeze", "provider": interrupts, "pauses": {"after": FOREVER_S}}],
        "rollbacks": [{"type": "action", "name": "thaw", "provider": {"type": "python", "module": "os", "func": "getpid"}}],
    }
    with Runner(Strategy.SKIP) as runner:
        runner.register_event_handler(drill._Moments())
        journal = runner.run(experiment, settings={"runtime": {"rollbacks": {"strategy": "always"}}})
    assert (journal["status"], slept) == ("interrupted", [])
    assert [one["status"] for one in journal["rollbacks"]] == ["succeeded"]


RUNNER = """
import sys
from tapecheck.recovery import drill, experiment
from tapecheck.recovery.drill import DrillTarget
from tapecheck.recovery.watchdog import Watchdog
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.target.opening import open_target
drill.STEADY_S, schedule = 240.0, ProbeSchedule(slow_s=30, timeout_s=60)
with Watchdog() as watchdog:
    drill.run(experiment.read(sys.argv[1]), DrillTarget.of(open_target("config/targets/sandbox.yaml")), schedule, watchdog, 1)
"""


def test_a_runner_that_is_killed_is_rolled_back_by_its_watchdog(where: DrillTarget, tmp_path: Path) -> None:
    """SIGKILL leaves nobody to roll back but the dead man's switch."""
    path = changed(tmp_path, "api_frozen", endless).path
    with subprocess.Popen([sys.executable, "-c", RUNNER, str(path)]) as process:
        until(frozen)
        process.kill()
    until(lambda: frozen() == [])


def external(state: SandboxState, **more: Any) -> Target:
    processes = {name: one.model_dump(exclude_none=True) for name, one in state.processes.items()}
    data = {"name": "staging", "kind": "external", "base_url": state.base_url, "requests": {"health": "GET /health"}}
    return Target.model_validate(data | {"processes": processes} | more)


def refused(target: Target, *names: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_allowed(target, [shipped(name) for name in names])
    return str(caught.value)


@pytest.mark.parametrize(("said", "times"), [((), 0), (("arm",), 1), (("arm", "disarm"), 0), (("arm", "disarm", "arm"), 1)])
def test_a_watchdog_rolls_back_what_is_armed_in_the_end_alone(monkeypatch: pytest.MonkeyPatch, said: tuple[str, ...], times: int) -> None:
    """What its runner has rolled back itself is not rolled back again."""
    played: list[object] = []
    monkeypatch.setattr(watchdog, "roll_back", lambda experiment: played.append(experiment) or {"rollbacks": []})
    armed = f"arm {json.dumps({'experiment': {'rollbacks': []}, 'allow_remote': False})}\n"
    lines = io.StringIO("".join(armed if word == "arm" else f"{word}\n" for word in said))
    assert (watchdog.keep(lines), len(played)) == (0, times)


def test_a_target_is_not_touched_without_leave_or_what_a_drill_needs(sandbox: SandboxState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lack at once, before any fault: the message says what to set, and what can be done without."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    killed, ended, ends = "api_killed", "database_connections_terminated", {"backfill": {"source_url": sandbox.upstream_url}}
    said = refused(external(sandbox), killed)
    assert "allow_drills: got false, while it is to be broken by api_killed; allowed: allow_drills: true, if you may break" in said
    check_allowed(external(sandbox, allow_drills=True), [shipped(killed)])
    check_allowed(external(sandbox), [])
    said = refused(external(sandbox, allow_drills=True, processes={}), killed, "upstream_rate_limited", ended)
    assert "processes: got target staging without api; allowed: processes: {api: {port: …}} in the target file" in said
    assert "configuration: got target staging without source_url" in said
    assert "configuration: got target staging without database_url" in said
    assert "without database_url" in refused(external(sandbox, allow_drills=True, **ends), ended), "named and not set"
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1/somebody")
    assert "allow_drills: got false" in refused(external(sandbox, kind="sandbox", **ends), ended), "somebody's own database"


def test_a_drill_about_nothing_that_has_an_objective_is_refused() -> None:
    """It would break the target, and no objective would judge it."""
    said = r"mine.yaml: .*failure: got 'meteor'; allowed: a failure of the plan's rto: scheduler_crash, upstream_rate_limit"
    with pytest.raises(ConfigError, match=said):
        check_failures(read_plan("config/rto_rpo.yaml"), {"mine.yaml": "meteor", "other.yaml": "api_crash"})
