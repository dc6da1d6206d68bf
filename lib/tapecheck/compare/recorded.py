"""Makes one round of two recorded runs. It measures nothing."""

import datetime as dt
from collections.abc import Mapping

from tapecheck import config, history, runs
from tapecheck.compare import circumstances, parts, spectra
from tapecheck.compare.metrics import Validation
from tapecheck.compare.parts import Part
from tapecheck.compare.plan import Question, Recorded
from tapecheck.compare.recording import Compared, Context, Recording
from tapecheck.compare.samples import Sample
from tapecheck.compare.variants import AFTER, BEFORE, Side
from tapecheck.errors import ConfigError, Problem
from tapecheck.results import Environment, TargetInfo
from tapecheck.runs import Run

Pairs = Mapping[str, Mapping[Side, str]]
"""What is compared, by the name that it has on each side."""


def read(before: str, after: str, asked: Recorded, *, seed: int = 0) -> Recording:
    """Return two recorded runs as one round.

    Raises:
        ConfigError: one is no complete run, they are of different validations or of comparisons, or have no part in common.
    """
    validation = _validation(before, after)
    sides: dict[Side, Run] = {BEFORE: runs.read(before), AFTER: runs.read(after)}
    found = {side: parts.find(validation, run.result) for side, run in sides.items()}
    pairs = _pairs(found)
    samples = [_sample(name, side, found[side][own[side]]) for name, own in pairs.items() for side in sides]
    broken = {sample.proof for sample in samples if sample.problem}
    drawn = [name for name in pairs if name not in broken and validation == "load"]
    return Recording(
        samples=samples,
        context=_context(sides, pairs, asked.question(validation), seed),
        spectra=spectra.of_runs({side: run.folder for side, run in sides.items()}, drawn),
    )


def asked(before: str, after: str, recorded: Recorded) -> dict[str, Question]:
    """Return what will be asked of each part of two recorded runs.

    Raises:
        ConfigError: as `read` does of what they are, and of their validations.
    """
    validation = _validation(before, after)
    return {f"each part of {validation}": recorded.question(validation)}


def _validation(before: str, after: str) -> Validation:
    """Return of which validation both sides are."""
    first, second = (str(runs.read(path).result["validation"]) for path in (before, after))
    if first != second:
        allowed = f"a run of {first}, as before is"
        raise ConfigError([Problem(file=str(after), key="after", got=f"a run of {second}", allowed=allowed)])
    if first == "compare":
        allowed = "runs of load, backfill or rto_rpo"
        raise ConfigError([Problem(file=str(before), key="before", got="a comparison, which compares already", allowed=allowed)])
    found: Validation = first  # type: ignore[assignment]
    return found


def _pairs(found: Mapping[Side, Mapping[str, Part]]) -> Pairs:
    """Return what both sides have.

    Raises:
        ConfigError: there is nothing.
    """
    before, after = found[BEFORE], found[AFTER]
    common = {name: {BEFORE: name, AFTER: name} for name in before if name in after}
    if common:
        return common
    got = f"{', '.join(before) or 'nothing'} before, {', '.join(after) or 'nothing'} after"
    raise ConfigError([Problem(file="parameters", key="after", got=got, allowed="two runs that have a part in common")])


def _context(sides: Mapping[Side, Run], pairs: Pairs, question: Question, seed: int) -> Context:
    first, second = sides[BEFORE], sides[AFTER]
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


def _sample(name: str, side: Side, part: Part) -> Sample:
    return Sample(
        proof=name,
        side=side,
        round=1,
        began_ns=0,
        ended_ns=0,
        clocks=part.clocks,
        counters=part.counters,
        checksum=part.checksum,
        problem=part.problem,
    )
