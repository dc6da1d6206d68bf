"""Puts what was found in single series together into one verdict: the totals, and what several symbols share. It keeps no bar."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from tapecheck.backfill.bars import IntArray
from tapecheck.backfill.examination import Defects, Series, is_among

NO_BARS = "no_bars"  # the kind of finding of a series that holds none of the bars that the calendar expects
KEPT = 200  # shared holes that are named; all are counted
SEVERAL = 3  # symbols that miss the same slot: if each of 25 missed one of 2,000 by itself, three would together once in 180 years
WRONG = ("wrong_symbol", *(field.name for field in fields(Defects) if field.name != "duplicate"))  # kinds of bars that cannot be right


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong in one series: how many bars, and the first of them (Unix ms); None where it cannot be told."""

    symbol: str
    timeframe: str
    kind: str
    bars: int
    first_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHole:
    """A slot of the regular session that several symbols miss: hardly for want of trade."""

    timeframe: str
    t_ms: int
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """The verdict on `series` series; expected = present + no_trade + upstream_holes + lost.

    `vanished` bars were stored by an earlier run and are gone: which, cannot be told, so they are counted among `no_trade` or
    `upstream_holes` too. `shared_holes` are the first of `shared_slots`.
    """

    series: int
    expected: int
    present: int
    no_trade: int
    upstream_holes: int
    lost: int
    vanished: int
    duplicates: int
    checksum: str
    findings: tuple[Finding, ...]
    shared_slots: int
    shared_holes: tuple[SharedHole, ...]


class Tally:
    """What was found so far, in counts: the series of all symbols in one stretch of days, and then of the next."""

    def __init__(self, *, several: int = SEVERAL) -> None:
        self._several = several
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._shared_slots = 0
        self._shared_holes: list[SharedHole] = []

    def add(self, parts: Sequence[Series]) -> None:
        """Add the series of all symbols in one stretch of days; no bar may lie in two stretches."""
        shared = _shared_slots(parts, self._several)
        self._shared_slots += sum(len(times) for times in shared.values())
        first = [(name, t_ms) for name, times in shared.items() for t_ms in times[:KEPT].tolist()]
        self._shared_holes += [_shared_hole(parts, *slot) for slot in first[: KEPT - len(self._shared_holes)]]
        for part, of_another in zip(parts, _of_another_symbol(parts), strict=True):
            account = self._accounts.setdefault((part.symbol, part.timeframe), _Account())
            account.add(_blamed(part, shared[part.timeframe]), of_another)

    def integrity(self, checksum: str = "", acknowledged: Mapping[tuple[str, str], int] | None = None) -> Integrity:
        """Return the verdict on all that was added.

        Args:
            acknowledged: how many rows of each series were said to be stored, ever; leave out a series that nobody counted.
        """
        accounts = self._accounts.values()
        gone = {key: account.vanished((acknowledged or {}).get(key, 0)) for key, account in self._accounts.items()}
        return Integrity(
            series=len(accounts),
            expected=sum(account.expected for account in accounts),
            present=sum(account.present for account in accounts),
            no_trade=sum(account.no_trade for account in accounts),
            upstream_holes=sum(account.count("upstream_hole") for account in accounts),
            lost=sum(account.count("lost") for account in accounts),
            vanished=sum(gone.values()),
            duplicates=sum(account.count("duplicate") for account in accounts),
            checksum=checksum,
            findings=tuple(one for key, account in self._accounts.items() for one in account.findings(*key, gone[key])),
            shared_slots=self._shared_slots,
            shared_holes=tuple(self._shared_holes),
        )


@dataclass(slots=True, kw_only=True)
class _Account:
    """The counts of one series; of each kind of finding also the first start (Unix ms)."""

    stored: int = 0
    expected: int = 0
    present: int = 0
    no_trade: int = 0
    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, part: Series, of_another: IntArray) -> None:
        """Add what was found in one stretch of days."""
        self.stored += part.stored
        self.expected += part.expected
        self.present += part.present
        self.no_trade += len(part.no_trade)
        for kind, times in _kinds(part, of_another).items():
            if len(times):
                count, first_ms = self.kinds.get(kind, (0, int(times.min())))
                self.kinds[kind] = count + len(times), min(first_ms, int(times.min()))

    def count(self, kind: str) -> int:
        """Return how many bars a kind of finding has."""
        return self.kinds.get(kind, (0, 0))[0]

    def vanished(self, acknowledged: int) -> int:
        """Return how many rows were acknowledged and are no longer there, beyond those that are lost."""
        return max(0, acknowledged - self.stored - self.count("lost"))

    def findings(self, symbol: str, timeframe: str, vanished: int) -> list[Finding]:
        """Return what is wrong."""
        found: dict[str, tuple[int, int | None]] = {**self.kinds}
        if self.expected and not self.present:
            found[NO_BARS] = (self.expected, None)
        if vanished:
            found["vanished"] = (vanished, None)
        return [
            Finding(symbol=symbol, timeframe=timeframe, kind=kind, bars=bars, first_ms=first_ms) for kind, (bars, first_ms) in found.items()
        ]


def _kinds(part: Series, of_another: IntArray) -> dict[str, IntArray]:
    """Return the starts of what is missing or wrong, by the kind of finding."""
    kinds = {"lost": part.lost, "upstream_hole": part.upstream_holes, "wrong_symbol": of_another}
    return kinds | {field.name: getattr(part.defects, field.name) for field in fields(Defects)}


def _shared_slots(parts: Sequence[Series], several: int) -> dict[str, IntArray]:
    """Return by timeframe the slots of the regular session that several symbols lack."""
    shared = {}
    for name in dict.fromkeys(part.timeframe for part in parts):
        times, counts = np.unique(np.concatenate([part.in_session for part in parts if part.timeframe == name]), return_counts=True)
        shared[name] = times[counts >= several]
    return shared


def _shared_hole(parts: Iterable[Series], name: str, t_ms: int) -> SharedHole:
    symbols = tuple(part.symbol for part in parts if part.timeframe == name and t_ms in part.in_session)
    return SharedHole(timeframe=name, t_ms=t_ms, symbols=symbols)


def _blamed(part: Series, shared: IntArray) -> Series:
    """Move the holes that a series shares with others from `no_trade` to `upstream_holes`."""
    is_shared = is_among(part.no_trade, shared) & is_among(part.no_trade, part.in_session)
    return replace(part, no_trade=part.no_trade[~is_shared], upstream_holes=np.union1d(part.upstream_holes, part.no_trade[is_shared]))


def _of_another_symbol(parts: Sequence[Series]) -> list[IntArray]:
    """Return of each series the starts of bars that another symbol has too, with every price and the volume equal."""
    repeated = {}
    for name in dict.fromkeys(part.timeframe for part in parts):
        prints = [part.fingerprints for part in parts if part.timeframe == name]
        ordered = np.concatenate(prints)
        ordered.sort()
        repeated[name] = ordered[1:][ordered[1:] == ordered[:-1]]
    return [part.times[np.isin(part.fingerprints, repeated[part.timeframe])] for part in parts]
