"""Finds in a result what is compared by itself: a scenario, a backfill, a kind of failure, each in figures. It opens no file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tapecheck.compare.metrics import COUNTERS, LATENCIES, STAGE_METRICS, Validation
from tapecheck.verdict import Verdict

Json = dict[str, Any]  # of a result.json, which was checked by its schema when it was read


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Clocks, counters and checksum; `problem` says why they do not count, where they do not."""

    clocks: Mapping[str, float]
    counters: Mapping[str, int]
    checksum: str = ""
    problem: str = ""
    answers: Mapping[str, int] = field(default_factory=dict)


def find(validation: Validation, result: Json) -> dict[str, Part]:
    """Return the parts of a result by their names."""
    if validation == "load":
        return {name: _scenario(one) for name, one in result["scenarios"].items()}
    if validation == "backfill":
        return {"backfill": _backfill(result)}
    return {name: _failure(name, one, result["checks"]) for name, one in result["rto"].items()}


def _scenario(one: Json) -> Part:
    times = {
        f"{kind}{name}": value["value"] if isinstance(value, dict) else value
        for kind, key in (("", "response_time_ms"), ("service_", "service_time_ms"), ("server_", "server_time_ms"))
        for name in LATENCIES
        if one[key]
        for value in (one[key][name.removesuffix("_ms")],)
    }
    return Part(
        clocks=_numbers({**times, "throughput_rps": one["throughput_rps"]}),
        counters=_counted(one, *COUNTERS["load"]),
        problem=one["invalid"] or "",
    )


def _backfill(result: Json) -> Part:
    totals = result["totals"]
    stages = {name: result["stages"].get(name.removesuffix("_s"), {}).get("busy_s") for name in STAGE_METRICS}
    return Part(
        clocks=_numbers({**{name: totals[name] for name in ("duration_s", "records_per_s")}, **stages}),
        counters=_counted(totals, *COUNTERS["backfill"]),
        checksum=(result["integrity"] or {}).get("checksum", ""),
        problem=f"{totals['failed']} of {totals['jobs']} jobs failed" if totals["failed"] else "",
    )


def _failure(name: str, one: Json, checks: list[Json]) -> Part:
    invalid = (check["reason"] for check in checks if check["name"] == name and check["verdict"] == Verdict.INVALID)
    return Part(
        clocks=_numbers({"recover_max_s": one["recover_s"]["max"], "degraded_max_s": one["degraded_s"]["max"]}),
        counters={"trials": one["recover_s"]["n"]},
        problem=next(invalid, "an invalid trial") if one["verdict"] == Verdict.INVALID else "",
    )


def _counted(one: Json, *names: str) -> dict[str, int]:
    return {name: int(one[name]) for name in names if one.get(name) is not None}  # not everyone counts everything


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}
