"""What tests of the engine against planted servers have in common: work to do, and what holds of every result."""

import numpy as np
from servers import Behaviour, Server

from tapecheck.load.engine.engine import measure
from tapecheck.load.engine.recorder import ErrorKind, Measurement, Samples
from tapecheck.load.engine.schedule import Schedule, Stage
from tapecheck.load.engine.work import Address, PreparedRequest, Work
from tapecheck.load.plan import LoadPlan
from tapecheck.load.requests import prepare_all
from tapecheck.target.file import RequestTemplate, Target

GET = "GET /features/{symbol}?symbol={symbol}&limit={limit}"
PARAMETERS = {"symbol": ["AAPL", "MSFT", "GOOGL"], "limit": [100, 500]}


def requests_for(url: str, *, template: RequestTemplate | str = GET, parameters: dict[str, list[str | int]] | None = None):
    """Prepare requests against a server as a plan would."""
    target = Target.model_validate({"name": "planted", "kind": "external", "base_url": url, "requests": {"features": template}})
    values = PARAMETERS if parameters is None else parameters
    plan = LoadPlan.model_validate(
        {"scenarios": {"s": {"executor": "burst", "concurrency": 1, "request": "features", "parameters": values}}}
    )
    return prepare_all(plan, target)["s"]


WIDE = {"lag_p99_ms": 1e6, "dispatch_lag_p99_ms": 1e6, "cpu_ratio": 1, "achieved_ratio": 0.01}  # limits of a plan: the machine may be busy


def target_at(url: str, **more: object) -> Target:
    """Return a target with one request."""
    return Target.model_validate({"name": "planted", "kind": "external", "base_url": url, "requests": {"one": "GET /"}, **more})


def schedule(rate_rps: float, duration_s: float, *, warm_up_s: float = 0.0, end_rps: float | None = None) -> Schedule:
    """Make a schedule of one stage after a warm-up."""
    stage = Stage(start_rps=rate_rps, end_rps=rate_rps if end_rps is None else end_rps, duration_s=duration_s)
    return Schedule(stages=(*([Stage(start_rps=rate_rps, end_rps=rate_rps, duration_s=warm_up_s)] if warm_up_s else []), stage))


def work_for(server: Server | int, requests: tuple[PreparedRequest, ...] | None = None, **how: object) -> Work:
    """Make a burst of 10, a closed scenario if a duration is given, or an open model if a rate is given too."""
    port, host, tls = (server, "127.0.0.1", None) if isinstance(server, int) else (server.port, server.host, None)
    requests = requests or requests_for(f"http://127.0.0.1:{port}")
    defaults: dict[str, object] = {"timeout_s": 15.0, "max_connections": 1000}
    if "rate_rps" in how:
        rate_rps, end_rps = how.pop("rate_rps"), how.pop("end_rps", None)
        one = schedule(rate_rps, how["duration_s"], warm_up_s=how.get("warm_up_s", 0.0), end_rps=end_rps)  # type: ignore[arg-type]
        shape: dict[str, object] = {"executor": "constant_rate", "schedule": one}
    else:
        shape = {"concurrency": 10} | ({"executor": "closed"} if "duration_s" in how else {"executor": "burst", "rounds": 1})
    return Work(**{"address": Address(host=host, port=port, tls=tls), "requests": requests, **defaults, **shape, **how})  # type: ignore[arg-type]


def errors(samples: Samples) -> dict[str, int]:
    """Count rows by kind of error."""
    kinds, counts = np.unique(samples["error"], return_counts=True)
    return {ErrorKind(kind).name: int(count) for kind, count in zip(kinds, counts, strict=True)}


def response_ms(samples: Samples) -> np.ndarray:
    return (samples["done_ns"] - samples["intended_ns"]) / 1e6


def service_ms(samples: Samples) -> np.ndarray:
    return (samples["done_ns"] - samples["sent_ns"]) / 1e6


def run(behaviour: Behaviour, **how: object) -> tuple[Measurement, Server]:
    """Measure against a planted server and check what holds of every result."""
    with Server(behaviour) as server:
        measured = measure(work_for(server, **how))
    check_order(measured.samples)
    return measured, server


def check_order(samples: Samples) -> None:
    """Every row was written; times never run backwards, whatever happened."""
    assert (samples["intended_ns"] > 0).all()
    assert (samples["done_ns"] >= samples["intended_ns"]).all()
    sent = samples[samples["sent_ns"] > 0]
    assert (sent["sent_ns"] >= sent["intended_ns"]).all()
    assert (sent["connection"] > 0).all()
    answered = sent[sent["first_byte_ns"] > 0]
    assert (answered["first_byte_ns"] >= answered["sent_ns"]).all()
    assert (answered["done_ns"] >= answered["first_byte_ns"]).all()
    assert (samples["first_byte_ns"][samples["error"] == ErrorKind.none] > 0).all()
