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


def of_runs(folders: Mapping[Side, Path], scenarios: Sequence[str]) -> pa.Table:
    """Return the spectra of two recorded load runs; a run that was told of without its requests has none.

    Raises:
        ConfigError: the samples of a run cannot be read.
    """
    return _together(table for side, folder in folders.items() for table in _of_run(side, folder, scenarios))


def _of_run(side: Side, folder: Path, scenarios: Sequence[str]) -> Iterator[pa.Table]:
    if not (folder / "samples.parquet").exists():
        return
    found = recording.read_files(folder, source=str(folder))
    for name in scenarios:
        own = rows.counted(found.samples, name)
        if len(own):
            yield _one(name, side, own.response_ms(), own.batches(found.context.executors[name]))


def _one(proof: str, side: Side, response_ms: Times, batches: Counts) -> pa.Table:
    line = stats.spectrum(response_ms, batches)
    n = len(line["p"])
    values = {f"{name}_ms": pa.array(line[name], from_pandas=True) for name in ("value", "low", "high")}
    return pa.table(
        {"proof": pa.repeat(proof, n), "side": pa.repeat(side, n), "p": line["p"], **values, "n": pa.repeat(len(response_ms), n)}, SCHEMA
    )


def _together(tables: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables([SCHEMA.empty_table(), *tables])
