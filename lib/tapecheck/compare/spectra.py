"""The response times of both sides of a load proof by percentile, for a picture: what requests saw. It judges nothing.

Batches, whose samples are alike, are stretches of the rounds of a session, some twenty in all; a recorded run's are those of its scenario.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck import stats
from tapecheck.compare.variants import Side
from tapecheck.load import recording, rows
from tapecheck.load.recording import Recording
from tapecheck.stats import Counts

Times = NDArray[np.float64]
SCHEMA = pa.schema(
    [
        pa.field("proof", pa.string()),
        pa.field("side", pa.string()),
        pa.field("p", pa.float64(), metadata={"unit": "part of the requests that were at least this fast"}),
        *(pa.field(f"{name}_ms", pa.float64(), metadata={"unit": "ms; null: n gives no bound"}) for name in ("value", "low", "high")),
        pa.field("n", pa.int64(), metadata={"unit": "requests"}),
    ]
)


def of_rounds(response_ms: Mapping[tuple[str, Side], Sequence[Times]]) -> pa.Table:
    """Return the spectra of a session, of each proof and side from the response times (ms) of its rounds."""
    whole = {key: np.concatenate(rounds) for key, rounds in response_ms.items()}
    return _together(_one(*key, whole[key], _stretches(rounds)) for key, rounds in response_ms.items() if len(whole[key]))


def _stretches(rounds: Sequence[Times]) -> Counts:
    """Return the sizes of equal stretches of each round."""
    each = math.ceil(rows.BLOCKS / len(rounds))
    return np.concatenate([np.diff(np.linspace(0, len(one), each + 1).astype(np.int64)) for one in rounds])


def of_runs(sides: Mapping[Side, Path | Recording], scenarios: Mapping[str, Mapping[Side, str]]) -> pa.Table:
    """Return the spectra of two load runs, each in its folder or read; a run that was told of without its requests has none.

    Args:
        scenarios: by the name of the proof, what the scenario is called on each side.

    Raises:
        ConfigError: the samples of a run cannot be read.
    """
    return _together(table for side, run in sides.items() for table in _of_run(side, run, scenarios))


def _of_run(side: Side, run: Path | Recording, scenarios: Mapping[str, Mapping[Side, str]]) -> Iterator[pa.Table]:
    if not scenarios or (isinstance(run, Path) and not (run / "samples.parquet").exists()):
        return
    found = recording.read_files(run, source=str(run)) if isinstance(run, Path) else run
    tool = found.context.tool
    for proof, own in scenarios.items():
        sent = rows.counted(found.samples, own[side])
        if len(sent):
            batches = sent.batches(found.context.executors[own[side]])
            yield _one(proof, side, sent.response_ms(), batches, is_bounded=not (tool and tool.answers_only))


def _one(proof: str, side: Side, response_ms: Times, batches: Counts, *, is_bounded: bool = True) -> pa.Table:
    """Return one line; nothing bounds one from which requests without an answer are missing."""
    line = {**stats.spectrum(response_ms, batches)}
    n = len(line["p"])
    if not is_bounded:
        line["low"] = line["high"] = np.full(n, np.nan)
    values = {f"{name}_ms": pa.array(line[name], from_pandas=True) for name in ("value", "low", "high")}
    return pa.table(
        {"proof": pa.repeat(proof, n), "side": pa.repeat(side, n), "p": line["p"], **values, "n": pa.repeat(len(response_ms), n)}, SCHEMA
    )


def _together(tables: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables([SCHEMA.empty_table(), *tables])
