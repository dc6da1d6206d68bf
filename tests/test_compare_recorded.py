"""Two recorded runs are one round: what was counted is compared, what one round cannot prove is said, what does not fit is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from regenerate import at_home

from tapecheck import config
from tapecheck.compare import frames, recorded
from tapecheck.compare.analysis import ProofSummary
from tapecheck.compare.difference import Change
from tapecheck.compare.plan import COUNTERS
from tapecheck.compare.recording import Recording
from tapecheck.compare.validation import compare
from tapecheck.errors import ConfigError
from tapecheck.load.validation import load
from tapecheck.runs import folders

DATA = config.PROJECT / "tests" / "data"
PLAN = compare.read_plan("config/compare.yaml")


def summarize(found: Recording) -> dict[str, ProofSummary]:
    return compare.summarize(found, PLAN)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[..., str]:
    """Copy a recorded run's result, changed, into a folder of its own."""

    def copy(validation: str, name: str, change: Callable[[dict[str, Any]], object] = lambda result: None) -> str:
        folder = tmp_path / name
        folder.mkdir()
        result = json.loads((DATA / validation / "result.json").read_text())
        change(result)
        (folder / "result.json").write_text(json.dumps(result))
        return str(folder)

    return copy


def put(*at: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Return what puts a value into a result."""

    def change(result: dict[str, Any]) -> None:
        for key in at[:-1]:
            result = result[key]
        result[at[-1]] = value

    return change


def test_runs_are_recorded_as_if_at_home() -> None:
    """The committed ones do not name a temporary folder of whoever made them."""
    result = {"run_id": "r", "parameters": {"out": "anywhere", "rounds": 7}}
    assert at_home(result) == {"run_id": "r", "parameters": {"out": "outputs", "rounds": 7}}
    committed = [json.loads(file.read_text()) for file in DATA.glob("*/result.json")]
    assert committed and {one["parameters"]["out"] for one in committed} == {"outputs"}


@pytest.mark.parametrize("validation", ["load", "backfill"])
def test_a_run_beside_itself_is_one_round_that_proves_nothing(copied: Callable[..., str], validation: str) -> None:
    """Its counters are equal and its ratio is 1; of its clocks even no change is not claimed."""
    found = recorded.read(copied(validation, "a"), copied(validation, "b"))
    summary = summarize(found)
    assert found.context.differs == ()
    assert all(one.equal for proof in summary.values() for one in proof.counters)
    measured = [one for proof in summary.values() for one in proof.differences if one.ratio]
    assert {one.ratio.value for one in measured if one.ratio} == {1.0}
    clocks = [one for one in measured if one.metric not in COUNTERS[validation]]
    assert {(one.change, one.reason) for one in clocks} == {(Change.NOT_PROVEN, "one run a side: no confidence interval")}
    assert {one.change for one in measured if one not in clocks} <= {Change.NO_CHANGE}


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (("environment", "host"), "elsewhere", "host: "),
        (("environment", "system"), "Plan 9", "system: "),
        (("environment", "cores"), 96, "cores: "),
        (("environment", "memory_mb"), 640.0, "memory_mb: "),
        (("environment", "python"), "3.99.0", "python: "),
        (("environment", "versions", "numpy"), "0.1", "numpy: "),
        (("target", "name"), "production", "target name: "),
        (("target", "kind"), "external", "target kind: "),
        (("parameters", "rounds"), 7, "parameter rounds: "),
        (("plan_digest",), "51ab6c5d195e", "plan digest: not recorded before, "),
        (("scenarios", "steady_state", "executor"), "constant_rate", "executor of steady_state: closed before, "),
    ],
)
def test_what_else_lies_between_two_runs_is_said(copied: Callable[..., str], at: tuple[str, ...], value: object, said: str) -> None:
    """Machine, versions, target, plan and parameters, with both values; nothing is proven then."""
    found = recorded.read(copied("load", "a"), copied("load", "b", put(*at, value=value)))
    (text,) = found.context.differs
    assert text.startswith(said) and text.endswith(f"{value} after")
    assert {proof.doubt for proof in summarize(found).values()} == {"more differs between the sides than the change"}


@pytest.mark.parametrize(("kind", "said"), [("external", ("target base_url: http://a before, http://b after",)), ("sandbox", ())])
def test_another_address_is_another_target_unless_it_is_a_sandbox(copied: Callable[..., str], kind: str, said: tuple[str, ...]) -> None:
    """A sandbox has another port after every start."""
    sides = (copied("load", name, put("target", value={"name": "t", "kind": kind, "base_url": f"http://{name}"})) for name in "ab")
    assert recorded.read(*sides).context.differs == said


def test_each_metric_is_its_own_figure(copied: Callable[..., str]) -> None:
    """A mean that fell and a percentile that rose are told apart."""
    times = json.loads((DATA / "load" / "result.json").read_text())["scenarios"]["steady_state"]["response_time_ms"]
    changed = {**times, "mean": 1.0, "p95": {**times["p95"], "value": 2.0}, "p99": {**times["p99"], "value": 3.0}}
    after = copied("load", "b", put("scenarios", "steady_state", "response_time_ms", value=changed))
    proof = summarize(recorded.read(copied("load", "a"), after))["steady_state"]
    found = {one.metric: (one.before, one.after) for one in proof.differences if one.metric.endswith("_ms")}
    expected = {"mean_ms": (times["mean"], 1.0), "p95_ms": (times["p95"]["value"], 2.0), "p99_ms": (times["p99"]["value"], 3.0)}
    assert found == {name: pytest.approx(values) for name, values in expected.items()}


def an_invalid_trial(result: dict[str, Any]) -> None:
    result["rto"]["api_crash"]["verdict"] = "invalid"
    (check,) = (one for one in result["checks"] if one["name"] == "api_crash")
    check |= {"verdict": "invalid", "reason": "api_killed, trial 1: it was not steady"}


@pytest.mark.parametrize(
    ("validation", "change", "name", "reason"),
    [
        ("load", put("scenarios", "steady_state", "invalid", value="the generator was late"), "steady_state", "the generator was late"),
        ("backfill", put("totals", "failed", value=3), "backfill", "3 of 25 jobs failed"),
        ("rto_rpo", an_invalid_trial, "api_crash", "api_killed, trial 1: it was not steady"),
    ],
)
def test_what_is_invalid_in_a_run_counts_for_nothing(
    copied: Callable[..., str], validation: str, change: Callable[[dict[str, Any]], None], name: str, reason: str
) -> None:
    """Neither its clocks nor its counters; the table of both sides says of which of them and why, and the other parts count."""
    found = recorded.read(copied(validation, "a"), copied(validation, "b", change))
    assert {(one.proof, one.side): one.problem for one in found.samples if one.problem} == {(name, "after"): reason}
    summary = summarize(found)
    assert (summary[name].main.ratio, summary[name].counters, summary[name].left_out) == (None, [], [reason])
    assert all(proof.left_out == [] and proof.counters for other, proof in summary.items() if other != name)
    assert frames.sides(found).loc["does not count", "run"] == f"{name}, after: {reason}"


def test_requests_of_an_invalid_scenario_are_not_drawn(copied: Callable[..., str]) -> None:
    """Those of the others are."""
    sides = [Path(copied("load", "a")), Path(copied("load", "b", put("scenarios", "steady_state", "invalid", value="late")))]
    for folder in sides:
        for table in ("samples", "resources"):
            shutil.copy(DATA / "load" / f"{table}.parquet", folder)
    found = recorded.read(*map(str, sides))
    assert set(found.context.variants) - set(found.spectra["proof"].to_pylist()) == {"steady_state"}


def test_the_code_of_both_sides_is_shown(copied: Callable[..., str]) -> None:
    """By version and commit, with a star where it was changed since."""

    def change(result: dict[str, Any]) -> None:
        result["environment"] |= {"git_commit": "0123456789" * 4, "git_dirty": True}
        result["environment"]["versions"]["tapecheck"] = "9.9"

    def clean(result: dict[str, Any]) -> None:
        result["environment"] |= {"git_commit": "f" * 40, "git_dirty": False}

    found = recorded.read(copied("load", "a", clean), copied("load", "b", change))
    assert frames.sides(found)["code"].to_dict() == {"before": "0.1.0 fffffff", "after": "9.9 0123456*"}
    assert found.context.differs == (), "another version of ours is what is compared"


def test_scenarios_of_only_one_run_are_left_out(copied: Callable[..., str]) -> None:
    """What both have is compared."""

    def without_first(result: dict[str, Any]) -> None:
        del result["scenarios"][next(iter(result["scenarios"]))]

    before = copied("load", "a")
    found = recorded.read(before, copied("load", "b", without_first))
    assert len(found.context.variants) == len(folders.read(before).result["scenarios"]) - 1


def only(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda result: result.update(scenarios={name: result["scenarios"][name]})


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (("load",), ("backfill",), "after: got a run of backfill; allowed: a run of load, as before is"),
        (
            ("load", only("steady_state")),
            ("load", only("steady_rate")),
            r"steady_state; .*: steady_rate; allowed: runs that have a part in",
        ),
        (("load",), str(DATA / "tools" / "wrk.txt"), "a part in common"),  # only another tool names its one scenario as it likes
        (("load",), "NO/c*", r"after: got \S*/c\*; allowed: a path or pattern that a run or file matches"),
        (("load",), "*.txt", "got 1 before, [2-9]"),
        ("comparison", ("load",), "which compares already"),
    ],
)
def test_runs_that_are_no_pairs_are_refused(
    copied: Callable[..., str], monkeypatch: pytest.MonkeyPatch, before: Any, after: Any, said: str
) -> None:
    """Of another validation, without a part in common, not as many on both sides, not there, or a comparison; both sides are named."""
    if before == "comparison":
        monkeypatch.setattr(folders, "read", lambda path: folders.Run(folder=Path(path), result={"validation": "compare"}))
    sides = (given if isinstance(given, str) else copied(given[0], name, *given[1:]) for name, given in (("a", before), ("b", after)))
    with pytest.raises(ConfigError, match=said):
        recorded.read(*(str(DATA / "tools" / side) if side == "*.txt" else side for side in sides))


# ---- files of other load generators ----

TOOLS = DATA / "tools"
WITHOUT_A_MACHINE = "machine: {} does not say on which it ran"


def analysed(file: Path, out: Path) -> str:
    """Record what the load notebook makes of a file of another tool."""
    found = load.read(file)
    settings = load.settings(target="t", plan="config/load.yaml", run=str(file), out=str(out), scenarios="all", rounds=0)
    return str(load.record(load.analyse(found, load.read_plan("config/load.yaml")), settings=settings).folder)


@pytest.mark.parametrize(
    "name", ["k6.json", "k6.csv", "k6_summary.json", "locust.json", "vegeta.csv", "vegeta_report.json", "hey.csv", "wrk.txt"]
)
def test_a_file_of_another_tool_says_what_its_recorded_run_says(tmp_path: Path, name: str) -> None:
    """The same clocks, counters and spectrum, with nothing between the two but that nobody knows the machine."""
    found = recorded.read(str(TOOLS / name), analysed(TOOLS / name, tmp_path))
    before, after = found.samples
    assert (before.clocks, before.counters) == (after.clocks, after.counters)
    assert before.counters["requests"] > 0 and "connections_opened" not in before.counters
    assert found.context.differs == (WITHOUT_A_MACHINE.format(name.partition(".")[0].partition("_")[0]),)
    lines = found.spectra.drop_columns(["side"])
    assert lines.slice(0, len(lines) // 2).equals(lines.slice(len(lines) // 2))


def test_files_of_two_tools_are_compared_by_their_only_scenarios() -> None:
    """Under both names; that two tools measured is said, and proves nothing."""
    found = recorded.read(str(TOOLS / "vegeta.json"), str(TOOLS / "k6.json"))
    proof = summarize(found)["vegeta / paced"]
    assert [(one.name, one.before, one.after) for one in proof.counters] == [("requests", "20", "11"), ("failed", "2", "1")]
    assert {"measured by: vegeta before, k6 after", *map(WITHOUT_A_MACHINE.format, ("k6", "vegeta"))} <= {*found.context.differs}
    assert all(one.change == Change.NOT_PROVEN for one in proof.differences)
    assert {row["side"] for row in found.spectra.to_pylist()} == {"before", "after"}
    assert list(frames.sides(found)["run"])[:2] == ["vegeta.json", "k6.json"]
    unnamed = recorded.read(str(TOOLS / "vegeta.json"), str(TOOLS / "vegeta_report.json")).context.differs
    assert "target base_url: http://127.0.0.1:8000 before, not recorded after" in unnamed


def test_a_file_of_another_tool_is_compared_with_a_run_of_ours(copied: Callable[..., str]) -> None:
    """With the one scenario that it has; figures without an interval, and those that the tool does not give are absent."""

    def only_one(result: dict[str, Any]) -> None:
        result["scenarios"] = {"steady_state": result["scenarios"]["steady_state"]}

    found = recorded.read(copied("load", "a", only_one), str(TOOLS / "wrk.txt"))
    ours, theirs = found.samples
    assert {ours.proof, theirs.proof} == {"steady_state / wrk"}
    assert "p95_ms" in ours.clocks and "p95_ms" not in theirs.clocks and theirs.clocks["p99_ms"] > 0
    assert "measured by: this workbook before, wrk after" in found.context.differs
    assert not [text for text in found.context.differs if "unknown" in text or "None" in text]


def test_answers_alone_have_no_band() -> None:
    """What hey leaves out may have been the slowest."""
    found = recorded.read(str(TOOLS / "hey.csv"), str(TOOLS / "k6.json"))
    bounds = {side: [row["low_ms"] for row in found.spectra.to_pylist() if row["side"] == side] for side in ("before", "after")}
    assert {*bounds["before"]} == {None} and any(low is not None for low in bounds["after"])


def test_a_file_that_is_none_is_refused_before_anything_is_read(copied: Callable[..., str], tmp_path: Path) -> None:
    """With what it would have to be; a known one is a load run and no backfill."""
    (tmp_path / "diary.txt").write_text("dear diary")
    for read in (recorded.read, recorded.validation_of):
        with pytest.raises(
            ConfigError, match=r"diary\.txt: run: got a file that begins with 'dear diary'; allowed: a recorded run's folder"
        ):
            read(str(TOOLS / "k6.json"), str(tmp_path / "diary.txt"))
    with pytest.raises(ConfigError, match="after: got a run of load; allowed: a run of backfill"):
        recorded.validation_of(copied("backfill", "a"), str(TOOLS / "k6.json"))
    half = tmp_path / "half.json"
    half.write_text((TOOLS / "k6.json").read_text()[:-20])
    with pytest.raises(ConfigError, match="allowed: a whole file of k6 JSON lines"):
        recorded.read(str(TOOLS / "k6.json"), str(half))


# ---- several runs a side ----


def rounds(copied: Callable[..., str], order: str, *, faster: float = 0.5) -> None:
    """Copy load runs, one a second in this order of their sides, those after faster by so much."""
    for at, side in enumerate(order):

        def change(result: dict[str, Any], at: int = at, side: str = side) -> None:
            result["started_at"] = f"2026-11-02T00:00:{at:02d}+00:00"
            for one in result["scenarios"].values():
                one["response_time_ms"]["p95"]["value"] *= (faster if side == "a" else 1) * (1 + at % 3 / 100)

        copied("load", f"{side}{9 - at}", change)


@pytest.mark.parametrize(("order", "is_said"), [("baabbaab", False), ("bbbbaaaa", True)])
def test_as_many_runs_on_both_sides_are_as_many_rounds(copied: Callable[..., str], tmp_path: Path, order: str, is_said: bool) -> None:
    """Four of each prove what one does not, in the order in which they were measured; where one side came first, that is said."""
    rounds(copied, order)
    found = recorded.read(str(tmp_path / "b*"), str(tmp_path / "a*"))
    whole = compare.analyse(found, PLAN)
    p95 = next(one for one in whole.summary["steady_state"].differences if one.metric == "p95_ms")
    assert (p95.change, p95.ratio and p95.ratio.n) == (Change.IMPROVED, 4)
    assert [one.folder for one in found.context.before] == [str(tmp_path / f"b{9 - at}") for at, side in enumerate(order) if side == "b"]
    assert ("not_interleaved" in [one.name for one in whole.findings]) == is_said
    assert "no confidence interval" not in whole.said


def test_what_differs_and_what_one_round_lacks_is_said_once(copied: Callable[..., str]) -> None:
    """Figures come first, then once what keeps all of them from proving anything."""
    after = copied("load", "b", put("environment", "host", value="elsewhere"))
    whole = compare.analyse(recorded.read(copied("load", "a"), after), PLAN)
    assert whole.said.count("One run a side: no confidence interval.") == whole.said.count("the change: host.") == 1
    assert all(check.reason.partition(" ")[0] in ("p95", "p99", "mean", "throughput") for check in whole.checks)
    assert not any("elsewhere" in check.reason for check in whole.checks)


def test_several_files_of_another_tool_are_rounds_too(tmp_path: Path) -> None:
    """Their requests are pooled in the spectrum; whatever else a folder holds is not matched."""
    for name in ("before-1.json", "before-2.json", "after-1.json", "after-2.json"):
        shutil.copy(TOOLS / "k6.json", tmp_path / name)
    found = recorded.read(str(tmp_path / "before-*.json"), str(tmp_path / "after-*.json"))
    assert [(one.side, one.round) for one in found.samples] == [("before", 1), ("after", 1), ("before", 2), ("after", 2)]
    once = recorded.read(str(TOOLS / "k6.json"), str(TOOLS / "k6.json")).spectra["n"][0].as_py()
    assert found.spectra["n"][0].as_py() == 2 * once
