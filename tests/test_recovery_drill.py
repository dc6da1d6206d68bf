"""Drills on the real sandbox: what is broken comes back, and whatever happens to the drill, its fault is taken away."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
from tapecheck.recovery import actions, drill, experiment, timeline
from tapecheck.recovery.analysis import check_failures
from tapecheck.recovery.contradictions import read_plan
from tapecheck.recovery.drill import Done
from tapecheck.recovery.drill_target import DrillTarget, check_allowed
from tapecheck.recovery.experiment import Drill
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.recovery.recording import INVALID, MEASURED
from tapecheck.recovery.watchdog import Watchdog
from tapecheck.target.file import Target
from tapecheck.target.opening import SandboxState, open_target

SCHEDULE = ProbeSchedule(settle_s=0.3)
FOREVER_S = 240
SANDBOX = "config/targets/sandbox.yaml"


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


@pytest.fixture
def where(sandbox: SandboxState, api: httpx.Client) -> DrillTarget:
    return DrillTarget.of(open_target(SANDBOX))


def shipped(name: str) -> Drill:
    (found,) = experiment.chosen(name)
    return found


def changed(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Drill:
    """Return a shipped drill with a change."""
    data = yaml.safe_load(shipped(name).path.read_text())
    change(data)
    path = folder / f"{name}_changed.yaml"
    path.write_text(yaml.safe_dump(data))
    return experiment.read(path)


def run(one: Drill, where: DrillTarget) -> Done:
    """Run a drill as a run of several does: what must end that is raised, while there is a watchdog."""
    with Watchdog() as watchdog:
        done = drill.run(one, where, SCHEDULE, watchdog, 1)
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


def test_a_killed_api_is_seen_to_be_gone_and_back(where: DrillTarget) -> None:
    """No service from the kill until the supervisor has it back; steady before and after, rolled back, and journaled."""
    done = run(shipped("api_killed"), where)
    found = clocks(done)
    assert (done.trial.state, done.trial.steady_before, done.trial.steady_after, done.trial.rolled_back) == (MEASURED, True, True, True)
    assert found.first_bad_s is not None and found.recover_s is not None
    assert 0.2 < found.recover_s < 30
    assert done.journal["status"] == "completed" and "experiment" not in done.journal


def test_a_killed_scheduler_does_what_is_left_and_nothing_twice(where: DrillTarget) -> None:
    """After the restart it resumes from its checkpoints: what was done is skipped, what was asked for is done, the API serves all along."""
    done = run(shipped("scheduler_killed"), where)
    after, found = done.trial.after, clocks(done)
    assert after["resumed"] >= 30  # six symbols, and what other tests asked for
    assert after["skipped"] + after["runs"] >= after["resumed"]
    assert after["redone"] == 0
    served = done.probes.filter(pc.equal(done.probes["view"], "service"))
    assert set(served["error"].to_pylist()) <= {"", "timeout"} and set(served["status"].to_pylist()) <= {0, 200}, "however slow it was"
    assert found.recover_s is not None and found.detect_s is not None


def test_a_poisoned_symbol_is_skipped_and_the_others_go_on(where: DrillTarget) -> None:
    """Degraded is over before full: the others are done while the symbol still fails, which a slow probe may miss."""
    found = clocks(run(shipped("feature_failure"), where))
    assert found.degraded_s is not None and found.recover_s is not None
    assert found.degraded_s <= found.recover_s
    assert found.detect_s is not None


def test_a_frozen_database_is_served_from_the_cache(where: DrillTarget) -> None:
    """The service degrades, never fails, and is full again only after the thaw."""
    done = run(shipped("database_frozen"), where)
    found = clocks(done)
    assert done.trial.released_ns is not None and done.trial.injected_ns is not None
    assert found.degraded_s is not None and found.recover_s is not None
    assert found.recover_s >= (done.trial.released_ns - done.trial.injected_ns) / 1e9 - 0.2
    assert found.detect_s is not None
    assert frozen() == []


@pytest.mark.parametrize("name", ["database_connections_terminated", "scheduler_frozen", "upstream_rate_limited_with_retry_after"])
def test_other_drills_recover(where: DrillTarget, name: str) -> None:
    """They are steady before and after, and what they did is over."""
    done = run(shipped(name), where)
    assert (done.trial.state, done.trial.steady_after, done.trial.rolled_back) == (MEASURED, True, True)
    assert clocks(done).recover_s is not None


def test_without_a_steady_state_nothing_is_broken(where: DrillTarget, upstream: httpx.Client, tmp_path: Path) -> None:
    """A target that is not well before a drill makes it invalid, not failed, and is left alone."""

    def unsteady(data: dict[str, Any]) -> None:
        data["steady-state-hypothesis"]["probes"][0]["tolerance"] = 418

    before = psutil.Process(find(where, "api")).create_time()
    done = run(changed(tmp_path, "api_killed", unsteady), where)
    assert done.trial.state == INVALID
    assert done.trial.reason.startswith("the steady state did not hold before the fault")
    assert done.trial.injected_ns is None
    assert psutil.Process(find(where, "api")).create_time() == before


def find(where: DrillTarget, name: str) -> int:
    port = where.processes[name]["port"]
    return next(c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port and c.pid)


def test_a_fault_that_cannot_be_injected_is_invalid(where: DrillTarget, tmp_path: Path) -> None:
    """A drill that breaks nothing says nothing about recovery."""

    def misses(data: dict[str, Any]) -> None:
        data["method"][0]["provider"] = {"type": "process", "path": "false"}

    done = run(changed(tmp_path, "api_killed", misses), where)
    assert done.trial.state == INVALID
    assert done.trial.reason.startswith("the fault could not be injected as planned: kill the API: ")


def test_a_trigger_that_is_refused_is_invalid(where: DrillTarget, tmp_path: Path) -> None:
    """The fault needs work to fail on; Chaos Toolkit takes a 404 for a success, and all would have been well for 0 s."""

    def misses(data: dict[str, Any]) -> None:
        data["method"][1]["provider"]["url"] = "${base_url}/api/v1/admin/no-such-trigger"

    done = run(changed(tmp_path, "upstream_rate_limited", misses), where)
    assert done.trial.state == INVALID
    assert done.trial.reason.startswith("the fault could not be injected as planned: ask for a refresh: ")


def test_a_rollback_that_fails_is_loud_and_says_what_to_do(where: DrillTarget, tmp_path: Path) -> None:
    """Exit code 3, the drill's name in capitals, and the repair by hand."""

    def cannot(data: dict[str, Any]) -> None:
        data["rollbacks"] = [{"type": "action", "name": "never", "provider": {"type": "process", "path": "false"}}]

    said = rf"THE DRILL api_frozen_changed COULD NOT BE ROLLED BACK \(never: .*\). Repair by hand: kill -CONT {find(where, 'api')}$"
    with pytest.raises(RollbackError, match=said):
        run(changed(tmp_path, "api_frozen", cannot), where)
    assert RollbackError.exit_code == 3


def test_a_watchdog_that_cannot_roll_back_says_so() -> None:
    """Its own last resort fails: that is not passed over in silence."""
    never = {"type": "action", "name": "never", "provider": {"type": "process", "path": "false"}}
    with pytest.raises(RollbackError, match=r"not even by its watchdog\. Repair by hand: mend it"), Watchdog() as watchdog:
        watchdog.arm({"title": "t", "description": "d", "method": [], "rollbacks": [never]}, "mend it")


def test_no_database_is_no_database() -> None:
    """libpq takes an empty URL for whatever server it finds; a drill must not end its connections."""
    for configuration in ({}, {"database_url": ""}):
        with pytest.raises(RuntimeError, match="names no database; nothing was ended"):
            actions.terminate_connections(configuration)


def test_only_connections_to_the_target_are_ended(where: DrillTarget, database_url: str) -> None:
    """Clients of another database of the same server go on."""
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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("change", [endless, never_thawed])
def test_an_interrupt_rolls_back_first(
    where: DrillTarget, tmp_path: Path, number: signal.Signals, change: Callable[[dict[str, Any]], None]
) -> None:  # fmt: skip
    """Ctrl-C and SIGTERM in mid-drill end it at once, in a pause and in an activity, with the API thawed."""
    one, begun_s = changed(tmp_path, "api_frozen", change), time.monotonic()
    killer = threading.Thread(target=lambda: (until(frozen), os.kill(os.getpid(), number)))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        run(one, where)
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
from tapecheck.recovery.drill_target import DrillTarget
from tapecheck.recovery.watchdog import Watchdog
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.target.opening import open_target
with Watchdog() as watchdog:
    drill.run(experiment.read(sys.argv[1]), DrillTarget.of(open_target("config/targets/sandbox.yaml")), ProbeSchedule(), watchdog, 1)
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
    data = {
        "name": "staging",
        "kind": "external",
        "base_url": state.base_url,
        "requests": {"health": "GET /health"},
        "processes": processes,
    }
    return Target.model_validate(data | more)


def test_an_external_target_is_not_touched_without_leave(sandbox: SandboxState) -> None:
    """Neither audit nor fault: the message says what to set, and what can be done without."""
    with pytest.raises(
        ConfigError, match=r"allow_drills: got false, while it is to be broken by api_killed; allowed: allow_drills: true, if you may break"
    ):
        check_allowed(external(sandbox), [shipped("api_killed")])
    check_allowed(external(sandbox, allow_drills=True), [shipped("api_killed")])
    check_allowed(external(sandbox), [])


def test_a_drill_about_nothing_that_has_an_objective_is_refused() -> None:
    """It would break the target, and no objective would judge it."""
    with pytest.raises(
        ConfigError, match=r"mine.yaml: .*failure: got 'meteor'; allowed: a failure of the plan's rto: scheduler_crash, upstream_rate_limit"
    ):
        check_failures(read_plan("config/rto_rpo.yaml"), {"mine.yaml": "meteor", "other.yaml": "api_crash"})


def test_a_target_that_lacks_what_a_drill_needs_is_refused(sandbox: SandboxState) -> None:
    """Every lack at once, before any fault."""
    target = external(sandbox, allow_drills=True, processes={})
    with pytest.raises(ConfigError) as caught:
        check_allowed(target, [shipped("api_killed"), shipped("upstream_rate_limited"), shipped("database_connections_terminated")])
    said = str(caught.value)
    assert "processes: got target staging without api; allowed: processes: {api: {port: …}} in the target file" in said
    assert "configuration: got target staging without source_url" in said
    assert "configuration: got target staging without database_url" in said


def test_a_database_that_is_named_and_not_set_is_refused(sandbox: SandboxState, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that nobody set is no database; and a sandbox that fills somebody's own needs leave to be broken."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    ends = {"backfill": {"source_url": sandbox.upstream_url}}
    with pytest.raises(ConfigError, match="got target staging without database_url"):
        check_allowed(external(sandbox, allow_drills=True, **ends), [shipped("database_connections_terminated")])
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1/somebody")
    with pytest.raises(ConfigError, match="allow_drills: got false"):
        check_allowed(external(sandbox, kind="sandbox", **ends), [shipped("database_connections_terminated")])


def test_no_secret_is_in_what_a_drill_leaves(where: DrillTarget) -> None:
    """Neither key nor database URL is shown or journaled."""
    done = run(shipped("api_frozen"), where)
    assert where.database_url and where.source_key
    for text in (repr(where), str(done.journal), str(done.trial)):
        assert where.database_url not in text and where.source_key not in text
