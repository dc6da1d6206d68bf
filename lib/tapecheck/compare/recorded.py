"""Makes one round of two recorded runs, or of files of other load generators. It measures nothing."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from tapecheck import config, history, results, runs
from tapecheck.compare import answers, circumstances, parts, spectra
from tapecheck.compare.answers import Answers
from tapecheck.compare.metrics import Validation
from tapecheck.compare.parts import Part
from tapecheck.compare.plan import Question, Recorded
from tapecheck.compare.recording import Compared, Context, Recording
from tapecheck.compare.samples import Sample
from tapecheck.compare.variants import AFTER, BEFORE, Side
from tapecheck.errors import ConfigError, Problem
from tapecheck.load import recording as load_recording
from tapecheck.load.recording import Recording as LoadRecording
from tapecheck.load.tools import registry
from tapecheck.results import Environment, TargetInfo
from tapecheck.runs import Run
from tapecheck.verdict import Verdict

LIMITS = "config/load.yaml"  # the plan that says when a generator measured itself, as in the load notebook
Pairs = Mapping[str, Mapping[Side, str]]
"""What is compared, by the name that it has on each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One side: what its result says, and of a file of another tool its requests, which are in no run folder."""

    run: Run
    requests: LoadRecording | None = None

    @property
    def tool(self) -> str:
        """Return the name of the other tool that measured; empty when it was this workbook."""
        return str((self.run.result.get("tool") or {}).get("name", ""))

    def requests_of_run(self) -> LoadRecording | None:
        """Return every request; None where the run was told of without them.

        Raises:
            ConfigError: they cannot be read.
        """
        if self.requests or not (self.run.folder / "samples.parquet").exists():
            return self.requests
        return load_recording.read_files(self.run.folder, source=str(self.run.folder))


def read(before: str, after: str, asked: Recorded, *, seed: int = 0) -> Recording:
    """Return two recorded runs, or files of other load generators, as one round.

    Raises:
        ConfigError: one is no complete run and no file that we know, they are of different validations or of comparisons,
            or have no part in common.
    """
    validation = _validation(before, after)
    sides: dict[Side, Source] = {BEFORE: _source(before), AFTER: _source(after)}
    found = {side: parts.find(validation, source.run.result) for side, source in sides.items()}
    pairs = _pairs(sides, found)
    broken = {name for name, own in pairs.items() if any(found[side][own[side]].problem for side in sides)}
    drawn = {name: own for name, own in pairs.items() if name not in broken and validation == "load"}
    given, lines = _requests(sides, drawn)
    samples = [_sample(name, side, found[side][own[side]], given.get((name, side))) for name, own in pairs.items() for side in sides]
    return Recording(samples=samples, context=_context(sides, pairs, asked.question(validation), seed), spectra=lines)


def _requests(sides: Mapping[Side, Source], drawn: Pairs) -> tuple[dict[tuple[str, Side], Answers], pa.Table]:
    """Return the answers and the spectra of both sides, one side after the other; a run without its requests has neither.

    Two tools do not count the bytes of an answer alike, so that the answers of theirs are not compared.

    Raises:
        ConfigError: the samples of a run cannot be read.
    """
    given: dict[tuple[str, Side], Answers] = {}
    lines: list[pa.Table] = []
    for side, source in sides.items():
        requests = source.requests_of_run() if drawn else None
        if requests is not None:
            own = {name: both[side] for name, both in drawn.items()}
            lines += spectra.of_run(side, requests, own)
            if len({one.tool for one in sides.values()}) == 1:
                given |= {(name, side): answers.of(requests, scenario) for name, scenario in own.items()}
    return given, spectra.together(lines)


def asked(before: str, after: str, recorded: Recorded) -> dict[str, Question]:
    """Return what will be asked of each part of two recorded runs.

    Raises:
        ConfigError: as `read` does of what they are, and of their validations.
    """
    validation = _validation(before, after)
    return {f"each part of {validation}": recorded.question(validation)}


def _validation(before: str, after: str) -> Validation:
    """Return of which validation both sides are, before a file of a million requests is read."""
    first, second = _kind(before), _kind(after)
    if first != second:
        allowed = f"a run of {first}, as before is"
        raise ConfigError([Problem(file=str(after), key="after", got=f"a run of {second}", allowed=allowed)])
    if first == "compare":
        allowed = "runs of load, backfill or rto_rpo"
        raise ConfigError([Problem(file=str(before), key="before", got="a comparison, which compares already", allowed=allowed)])
    found: Validation = first  # type: ignore[assignment]
    return found


def _kind(path: str) -> str:
    file = registry.named(path)
    if file is None:
        return str(runs.read(path).result["validation"])
    registry.format_of(file, source=path)
    return "load"


def _source(path: str) -> Source:
    file = registry.named(path)
    if file is None:
        return Source(run=runs.read(path))
    from tapecheck.load import validation as load  # and with it the load engine: paid by who compares such a file

    found = load.read(path)
    result = load.LoadResult(
        validation="load",
        run_id=found.context.run_id,
        verdict=Verdict.NO_DATA,  # nothing was promised of it
        started_at=found.context.started_at,
        target=found.context.target,
        environment=found.context.environment,
        parameters={},
        checks=[],
        bottleneck=None,
        recommendations=[],
        scenarios=load.summarize(found, load.read_plan(LIMITS)),
        tool=found.context.tool,
    )
    return Source(run=Run(folder=file.resolve(), result=results.to_json(result)), requests=found)


def _pairs(sides: Mapping[Side, Source], found: Mapping[Side, Mapping[str, Part]]) -> Pairs:
    """Return what both sides have; of another tool, which names its scenarios itself, the only one of each.

    Raises:
        ConfigError: there is nothing.
    """
    before, after = found[BEFORE], found[AFTER]
    common = {name: {BEFORE: name, AFTER: name} for name in before if name in after}
    if common:
        return common
    if len(before) == len(after) == 1 and any(source.tool for source in sides.values()):
        (first,), (second,) = before, after
        return {f"{first} / {second}": {BEFORE: first, AFTER: second}}
    got = f"{', '.join(before) or 'nothing'} before, {', '.join(after) or 'nothing'} after"
    raise ConfigError([Problem(file="parameters", key="after", got=got, allowed="two runs that have a part in common")])


def _context(sides: Mapping[Side, Source], pairs: Pairs, question: Question, seed: int) -> Context:
    first, second = sides[BEFORE].run, sides[AFTER].run
    return Context(
        run_id=runs.new_id(),
        started_at=dt.datetime.fromisoformat(second.result["started_at"]),
        target=TargetInfo(**second.result["target"]),
        environment=Environment(**second.result["environment"]),
        questions=dict.fromkeys(pairs, question),
        seed=seed,
        before=_compared(first),
        after=_compared(second),
        differs=tuple(circumstances.differs(first.result, second.result, pairs)),
    )


def _compared(run: Run) -> Compared:
    return Compared(
        folder=config.shown(run.folder),
        run_id=run.result["run_id"],
        target=run.result["target"]["name"],
        code=history.code(Environment(**run.result["environment"])),
    )


def _sample(name: str, side: Side, part: Part, given: Answers | None) -> Sample:
    return Sample(
        proof=name,
        side=side,
        round=1,
        began_ns=0,
        ended_ns=0,
        clocks={**part.clocks, **(given.clocks if given else {})},
        counters={**part.counters, **(given.counters if given else {})},
        answers=given.kinds if given else {},
        checksum=part.checksum,
        problem=part.problem,
    )
