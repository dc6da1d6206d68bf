"""Turns the fates of bars into what was lost, in market data's units: minutes a symbol and tier. Pure functions."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tapecheck.recovery.recording import Ack


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLoss:
    """What became of a tier's bars, over all trials.

    Args:
        unknown_bars: whose commit got no answer; they are not among the acknowledged, which are stable, lost or never read.
        lost_minutes: the most that one symbol lost in one trial, which is what a promise of minutes is about.
        lost_minutes_by_symbol: the same for each symbol that lost any.
        total_lost_minutes: of all symbols and trials together; a bar that several trials wrote counts in each.
        worst_symbol: the one that lost most; None where nothing was lost.
        refetchable_bars, unrecoverable_bars, unasked_bars: of the lost ones, those that upstream still has, has not, and was not
            asked for or did not say.
        freshness_loss_minutes: how long nothing could be refreshed, which is no loss of what was stored.
    """

    acknowledged_bars: int = 0
    stable_bars: int = 0
    lost_bars: int = 0
    never_read_bars: int = 0
    unknown_bars: int = 0
    lost_minutes: float = 0.0
    lost_minutes_by_symbol: Mapping[str, float] = field(default_factory=dict)
    total_lost_minutes: float = 0.0
    worst_symbol: str | None = None
    refetchable_bars: int = 0
    unrecoverable_bars: int = 0
    unasked_bars: int = 0
    freshness_loss_minutes: float | None = None


def summarize(acks: Iterable[Ack], *, freshness_loss_minutes: float | None = None) -> dict[str, TierLoss]:
    """Return the loss of every tier of which a bar was written; bars of symbols without a tier are under `""`."""
    by_tier: defaultdict[str, list[Ack]] = defaultdict(list)
    for ack in acks:
        by_tier[ack.tier or ""].append(ack)
    return {name: _tier(own, freshness_loss_minutes) for name, own in by_tier.items()}


def _tier(acks: Sequence[Ack], freshness_loss_minutes: float | None) -> TierLoss:
    fates = Counter(ack.fate for ack in acks)
    lost = [ack for ack in acks if ack.fate == "lost"]
    by_symbol, asked = _minutes_by_symbol(lost), Counter(ack.refetchable for ack in lost)
    return TierLoss(
        acknowledged_bars=fates.total() - fates["unknown"],
        stable_bars=fates["stable"],
        lost_bars=fates["lost"],
        never_read_bars=fates["never_read"],
        unknown_bars=fates["unknown"],
        lost_minutes=max(by_symbol.values(), default=0.0),
        lost_minutes_by_symbol=by_symbol,
        total_lost_minutes=sum(ack.minutes for ack in lost),
        worst_symbol=max(by_symbol, key=lambda symbol: by_symbol[symbol], default=None),
        refetchable_bars=asked[True],
        unrecoverable_bars=asked[False],
        unasked_bars=asked[None],
        freshness_loss_minutes=freshness_loss_minutes,
    )


def _minutes_by_symbol(lost: Iterable[Ack]) -> dict[str, float]:
    """Return the most minutes that each symbol lost in one trial of one drill."""
    by_trial: defaultdict[tuple[str, str, int], float] = defaultdict(float)
    for ack in lost:
        by_trial[ack.symbol, ack.drill, ack.trial] += ack.minutes
    worst: dict[str, float] = {}
    for (symbol, _, _), minutes in by_trial.items():
        worst[symbol] = max(worst.get(symbol, 0.0), minutes)
    return worst
