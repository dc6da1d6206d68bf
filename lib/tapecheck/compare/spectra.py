"""The response times of both sides of a load proof by percentile, for a picture: what requests saw. It judges nothing.

Batches, whose samples are alike, are stretches of the rounds of a session, some twenty in all; a recorded run's are those of its scenario.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck import stats
from tapecheck.compare.variants import Side
from tapecheck.load import rows
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
    return together(_one(*key, whole[key], _stretches(rounds)) for key, rounds in response_ms.items() if len(whole[key]))


def _stretches(rounds: Sequence[Times]) -> Counts:
    """Return the sizes of equal stretches of each round."""
    each = math.ceil(rows.BLOCKS / len(rounds))
    return np.concatenate([np.diff(np.linspace(0, len(one), each + 1).astype(np.int64)) for one in rounds])


def of_run(side: Side, found: Recording, scenarios: Mapping[str, str]) -> Iterator[pa.Table]:
    """Yield the spectrum of each scenario of a load run that has requests.

    Args:
        scenarios: by the name of the proof, what the scenario is called in this run.
    """
    tool = found.context.tool
    for proof, scenario in scenarios.items():
        sent = rows.counted(found.samples, scenario)
        if len(sent):
            batches = sent.batches(found.context.executors[scenario])
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


def together(tables: Iterable[pa.Table]) -> pa.Table:
    """Return one table of some."""
    return pa.concat_tables([SCHEMA.empty_table(), *tables])
