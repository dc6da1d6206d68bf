"""Everything that a recording timed as one kind of rows, whatever the validation: selections, the slowest and the failed of them.

It draws nothing and judges nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck import text
from tapecheck.errors import ConfigError, Problem
from tapecheck.load import samples
from tapecheck.load.samples import Codes, Mask, Rows
from tapecheck.recording import Recording

Where = Mapping[str, Sequence[str]]  # of a column, the values that are wanted
Floats = NDArray[np.float64]
SLOWEST, KINDS = 20, 40  # rows of a table
MOST_NAMED = 5  # values of a column in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where a recording has what it timed: table, first and last moment, columns (the first of them colours), why it failed."""

    table: str
    began: str
    ended: str
    columns: tuple[str, ...]
    failure: str
    things: str


_TIMED = {"began": "began_ns", "ended": "ended_ns"}
_DUE = {"began": "intended_ns", "ended": "done_ns"}
SOURCES: Mapping[str, Located] = {
    "load": Located(table="samples", columns=("scenario",), failure="error", things="requests", **_DUE),
    "backfill": Located(table="spans", columns=("stage", "symbol", "timeframe", "worker"), failure="", things="spans", **_TIMED),
    "observe": Located(table="exchanges", columns=("status", "path"), failure="failure", things="requests", **_TIMED),
    "rto_rpo": Located(table="probes", columns=("drill", "view", "trial", "state", "status"), failure="error", things="probes", **_DUE),
    "compare": Located(table="samples", columns=("proof", "side", "round"), failure="problem", things="rounds", **_TIMED),
}


@dataclass(frozen=True, kw_only=True)
class Events:
    """Rows in the order in which they were recorded: when each began (s, since the first), how long it took (ms), whether it failed.

    `columns` has, by name, the words of a column and each row's index into them. Warm-up is no part of it.
    """

    source: Located
    table: pa.Table
    positions: NDArray[np.int64]  # of each row in the recorded table
    at_s: Floats
    took_ms: Floats
    failed: Mask
    columns: Mapping[str, tuple[list[str], Codes]]
    origin_ns: int

    def __len__(self) -> int:
        return len(self.at_s)

    def counts(self, column: str, chosen: Mask | None = None) -> dict[str, int]:
        """Return how many rows have each value of a column, in the order of numbers and then of words; absent ones have none."""
        words, codes = self.columns[column]
        found = samples.tally(codes if chosen is None else codes[chosen], words)
        return {word: found[word] for word in sorted(found, key=_natural) if word}

    def select(self, where: Where) -> Mask:
        """Tell for each row whether it has one of the wanted values in every column."""
        chosen = np.ones(len(self), bool)
        for name, wanted in where.items():
            words, codes = self.columns[name]
            if wanted:
                chosen &= np.array([word in wanted for word in words], bool)[codes]
        return chosen

    def slowest(self, chosen: Mask, most: int = SLOWEST) -> pd.DataFrame:
        """Return the rows that took longest, the longest first, with every field that was recorded; moments in s since the first row."""
        at = np.flatnonzero(chosen)
        at = at[np.argpartition(-self.took_ms[at], most)[:most]] if len(at) > most else at
        at = at[np.argsort(-self.took_ms[at], kind="stable")]
        found = self.table.take(pa.array(self.positions[at]))
        columns: dict[str, Any] = {"row": self.positions[at], "at (s)": self.at_s[at].round(3), "took (ms)": self.took_ms[at].round(3)}
        for name in found.column_names:
            values = found.column(name)
            if name.endswith("_ns"):
                ns = values.to_numpy().astype(np.float64)
                columns[f"{name.removesuffix('_ns')} (s)"] = np.where(ns == 0, np.nan, ((ns - self.origin_ns) / 1e9).round(3))
            else:
                columns[name] = [_shown(one) for one in values.to_pylist()]
        return pd.DataFrame(columns)

    def failures(self, chosen: Mask, most: int = KINDS) -> tuple[pd.DataFrame, int]:
        """Return the failures by kind and by what was asked, the most frequent first, and how many kinds there is no room for."""
        kinds = [name for name in (self.source.failure, "status") if name in self.columns]
        names = [*kinds, *(name for name in self.columns if name not in ("status", "state", self.source.failure))]
        failed, keys = np.flatnonzero(chosen & self.failed), list(range(len(names)))  # numbers: a column may have any name
        if not len(failed):
            return pd.DataFrame(columns=[*names, "count", "share of such", "first (s)", "last (s)", "slowest (ms)", "its row"]), 0
        codes = pd.DataFrame({key: self.columns[names[key]][1][failed] for key in keys}, index=failed)
        codes["at"], codes["took"] = self.at_s[failed], self.took_ms[failed]
        found = codes.groupby(keys, sort=False).agg(count=("at", "size"), first=("at", "min"), last=("at", "max"), worst=("took", "idxmax"))
        found = found.sort_values("count", ascending=False, kind="stable").reset_index()
        asked = keys[len(kinds) :]
        every = pd.DataFrame({key: self.columns[names[key]][1][chosen] for key in asked}).value_counts().rename("total")
        out = found.head(most).join(every, on=asked)
        worst = out["worst"].to_numpy()
        columns = {names[key]: [text.line(self.columns[names[key]][0][code]) for code in out[key]] for key in keys}
        figures = {
            "count": out["count"].to_numpy(), "share of such": (out["count"] / out["total"]).round(4),
            "first (s)": out["first"].round(3), "last (s)": out["last"].round(3),
            "slowest (ms)": self.took_ms[worst].round(3), "its row": self.positions[worst],
        }  # fmt: skip
        return pd.DataFrame({**columns, **figures}), len(found) - len(out)


def _shown(value: object) -> object:
    return text.line(value) if isinstance(value, str) else round(value, 3) if isinstance(value, float) else value


def _natural(word: str) -> tuple[float, str]:
    try:
        return float(word), ""
    except ValueError:
        return float("inf"), word


def of(validation: str, recording: Recording[Any]) -> Events:
    """Return what a recording timed; no rows where another tool's file gave only figures."""
    source, table = SOURCES[validation], recording.tables[SOURCES[validation].table]
    is_load = validation == "load"
    rows = samples.measured(table) if is_load else Rows(table)
    began_ns, ended_ns = rows.numbers(source.began), rows.numbers(source.ended)
    names = [*source.columns, *([*rows.dimensions(), "status"] if is_load else []), *([source.failure] if source.failure else [])]
    columns = {name: rows.codes(name) for name in names}
    failed = _failed(validation, recording, rows, columns)
    if not is_load and "status" in columns:
        columns[source.failure] = _kinds(columns[source.failure], columns["status"], failed)
    origin_ns = int(began_ns.min()) if len(began_ns) else 0
    return Events(
        source=source,
        table=table,
        positions=np.flatnonzero(~table.column("warm_up").to_numpy()) if is_load else np.arange(len(table)),
        at_s=(began_ns - origin_ns) / 1e9,
        took_ms=(ended_ns - began_ns) / 1e6,
        failed=failed,
        columns=columns,
        origin_ns=origin_ns,
    )


def _failed(validation: str, recording: Recording[Any], rows: Rows, columns: Mapping[str, tuple[list[str], Codes]]) -> Mask:
    if validation == "load":
        return rows.failed()
    if validation == "rto_rpo":
        return np.asarray(rows.numbers("state") == 0)
    if validation == "backfill":  # a span is of a job that failed
        jobs = recording.tables["jobs"].to_pylist()
        failed = {(job["symbol"], job["timeframe"]) for job in jobs if job["state"] == "failed"}
        (symbols, of_symbol), (frames, of_frame) = columns["symbol"], columns["timeframe"]
        lost = np.array([[(symbol, frame) in failed for frame in frames] for symbol in symbols], bool).reshape(len(symbols), len(frames))
        return np.asarray(lost[of_symbol, of_frame])
    words, codes = columns[SOURCES[validation].failure]
    has_word: Mask = np.array([word != "" for word in words], bool)[codes]
    if validation == "observe":  # a vendor's refusal is a whole answer
        status = rows.numbers("status")
        return has_word | (status <= 0) | (status >= 400)
    return has_word


def _kinds(kinds: tuple[list[str], Codes], statuses: tuple[list[str], Codes], failed: Mask) -> tuple[list[str], Codes]:
    """Return why each row failed; where no word says it, the status is the kind."""
    (words, codes), (names, of_status) = kinds, statuses
    unnamed = failed & np.array([word == "" for word in words], bool)[codes]
    said = ["no answer" if name == "0" else f"HTTP {name}" for name in names]
    return [*words, *said], np.where(unnamed, len(words) + of_status.astype(np.int64), codes)


def parse(where: str, events: Events) -> dict[str, tuple[str, ...]]:
    """Read a filter such as `scenario=steady_rate; symbol=AAPL,MSFT`; a word may stand in double quotes, as `symbols="AAPL,MSFT"`.

    Raises:
        ConfigError: every column and value of it that the recording does not have.
    """
    found: dict[str, tuple[str, ...]] = {}
    problems = []
    for part in filter(None, _split(where, ";")):
        name, *rest = _split(part, "=", most=1)
        if not rest or (name := _plain(name)) not in events.columns:
            problems.append((part, f"COLUMN=VALUE,VALUE; columns: {', '.join(events.columns)}"))
            continue
        known = events.counts(name)
        found[name] = tuple(_plain(value) for value in _split(rest[0], ",") if value)
        if unknown := [value for value in found[name] if value not in known]:
            some = ", ".join(list(known)[:MOST_NAMED])
            problems.append((f"{name}={','.join(unknown)}", f"values of {name}: {some}{', …' if len(known) > MOST_NAMED else ''}"))
    if problems:
        raise ConfigError([Problem(file="parameters", key="where", got=got, allowed=allowed) for got, allowed in problems])
    return found


def written(where: Where) -> str:
    """Write a filter as `parse` reads it."""
    return "; ".join(f"{_quoted(name)}={','.join(map(_quoted, wanted))}" for name, wanted in where.items() if wanted)


def _split(said: str, sign: str, most: int = 0) -> list[str]:
    """Split at a sign that stands in no quotes: an even number of them follows."""
    return [part.strip() for part in re.split(rf'{sign}(?=(?:[^"]*"[^"]*")*[^"]*\Z)', said, maxsplit=most)]


def _plain(word: str) -> str:
    return word[1:-1].replace('""', '"') if word.startswith('"') else word


def _quoted(word: str) -> str:
    return word if re.fullmatch(r'[^\s",;=]+', word) else '"' + word.replace('"', '""') + '"'
