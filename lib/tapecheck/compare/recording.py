"""What a comparison leaves behind: one sample a run, and what is needed to read them without a target."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from tapecheck import validation
from tapecheck.compare import samples as spectra
from tapecheck.compare.plan import Proof, Question
from tapecheck.compare.samples import Sample
from tapecheck.errors import ConfigError, Problem
from tapecheck.runs import folders
from tapecheck.runs.results import Finding

_METADATA_KEY = b"tapecheck"
MAPS = ("clocks", "counters", "answers")
_NAME = pa.dictionary(pa.int32(), pa.string())
SAMPLES = pa.schema(
    [
        pa.field("proof", _NAME),
        pa.field("side", _NAME),
        pa.field("round", pa.int32(), metadata={"unit": "from 1; 0: a warm-up, in no result"}),
        *(pa.field(f"{what}_ns", pa.int64(), metadata={"unit": "ns, monotonic"}) for what in ("began", "ended")),
        pa.field("clocks", pa.map_(pa.string(), pa.float64()), metadata={"unit": "that of each name"}),
        pa.field("counters", pa.map_(pa.string(), pa.int64())),
        pa.field("checksum", pa.string()),
        pa.field("problem", pa.string()),
        pa.field("late", pa.string()),
        pa.field("answers", pa.map_(pa.string(), pa.int64()), metadata={"unit": "right answers of a status and size below, of a load run"}),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What the backfill's own analysis says of a proof's baseline.

    `found` are its findings about where the time goes; `what_if` the part of the wall time that each usual change is predicted to save.
    """

    found: tuple[Finding, ...] = ()
    what_if: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One of two recorded runs that are compared; `code` is the version and commit that measured it, empty where another tool did."""

    folder: str
    run_id: str
    target: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(validation.Context):
    """What the samples do not say: what was asked, and what else is known of the two sides.

    `differs` names what else than the change lies between the sides, each as `what: before, after`; two plans that were measured in
    one session have nothing there.
    """

    questions: Mapping[str, Question | Proof]
    seed: int = 0
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    before: Compared | None = None
    after: Compared | None = None
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Samples in the order in which they began, the spectra of load proofs (`spectra.SCHEMA`), and their context."""

    samples: Sequence[Sample]
    context: Context
    spectra: pa.Table = field(default_factory=spectra.SCHEMA.empty_table)
    source: str | None = None

    def of(self, proof: str) -> list[Sample]:
        """Return the samples of one proof."""
        return [sample for sample in self.samples if sample.proof == proof]

    def tables(self) -> Mapping[str, pa.Table]:
        """Return the tables to store; the samples carry the context in their metadata."""
        context = TypeAdapter(Context).dump_json(self.context)
        rows = [dataclasses.asdict(sample) for sample in self.samples]
        plain = [row | {name: list(row[name].items()) for name in MAPS} for row in rows]
        samples = pa.Table.from_pylist(plain, SAMPLES).replace_schema_metadata({_METADATA_KEY: context})
        return {"samples": samples, "spectra": self.spectra}


def read(path: str | Path) -> Recording:
    """Read the recording of a run folder.

    Raises:
        ConfigError: the folder is no complete comparison.
    """
    return read_files(folders.recording(path, "compare"), source=str(path))


def read_files(folder: Path, *, source: str) -> Recording:
    """Read the files of a recording, whatever else the folder holds.

    Raises:
        ConfigError: one is missing, broken or incomplete.
    """
    try:
        table, lines = (pq.read_table(folder / f"{name}.parquet") for name in ("samples", "spectra"))
        context = TypeAdapter(Context).validate_python(json.loads(table.schema.metadata[_METADATA_KEY]))
        plain = table.to_pylist()
        rows = [Sample(**row | {name: dict(row[name]) for name in MAPS if name in row}) for row in plain]
        return Recording(samples=rows, context=context, spectra=lines, source=source)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
        got = f"samples that cannot be read ({type(error).__name__}: {str(error)[:80]})"
        raise ConfigError([Problem(file=source, key="run", got=got, allowed="a complete comparison")]) from error
