"""Which figures of each validation can be compared, and which way is better. It measures nothing."""

from collections.abc import Mapping
from typing import Literal

Better = Literal["lower", "higher"]
Validation = Literal["backfill", "load", "rto_rpo"]
STAGE_METRICS = ("wait_s", "fetch_s", "decode_s", "features_s", "insert_s", "other_s")  # busy time of the backfill's stages
LATENCIES = ("mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
WHERE = ("bottleneck_", "leading_")  # findings of a backfill about where its time goes, each with a stage
ANSWERS = "answers"  # of a load run: by status and size, see there; they differ where only one side compresses
MACHINE = "machine_s"  # a fixed piece of work just before each run: no change of a plan can touch it

CLOCKS: Mapping[str, Mapping[str, Better]] = {
    "backfill": {"duration_s": "lower", "records_per_s": "higher", **dict.fromkeys((*STAGE_METRICS, MACHINE), "lower")},
    "load": {
        **dict.fromkeys(LATENCIES, "lower"),
        **{f"{kind}_{name}": "lower" for kind in ("service", "server") for name in LATENCIES},
        "throughput_rps": "higher",
        "answer_bytes": "lower",
        MACHINE: "lower",
    },
    "rto_rpo": {"recover_max_s": "lower", "degraded_max_s": "lower"},
}
COUNTERS: Mapping[str, tuple[str, ...]] = {
    "backfill": ("records", "requests", "bytes", "statements", "failed"),
    "load": ("requests", "failed", "connections_opened", "bytes"),
    "rto_rpo": ("trials",),
}
COUNTED_EXACTLY: Mapping[str, tuple[str, ...]] = {  # counters that are the same every time that the same is done
    "backfill": COUNTERS["backfill"],
    "load": (),
    "rto_rpo": (),
}
SAME: Mapping[str, tuple[str, ...]] = {  # what must be equal, else two things were measured that are no variants of each other
    "backfill": ("records", "failed"),
    "load": (ANSWERS,),  # users that send when they are answered send as many as they can
    "rto_rpo": (),
}


def known(validation: str) -> Mapping[str, Better]:
    """Return every figure of a validation and which way is better; less of a counter is."""
    return {**dict.fromkeys(COUNTERS[validation], "lower"), **CLOCKS[validation]}
