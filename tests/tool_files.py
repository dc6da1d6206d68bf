"""Files as other tools write them, of requests with known answers: begun 10 ms apart, 20 ms each, every tenth a 500."""

import json
from datetime import UTC, datetime, timedelta

BEGAN = datetime(2026, 11, 2, 10, 15, tzinfo=UTC)
URL = "http://me:pass@127.0.0.1:8000/api?symbol=AAPL&apiKey=s3cret"
K6_COLUMNS = "metric_name,timestamp,metric_value,error_code,method,name,scenario,status,url,extra_tags,metadata"


def ended(i: int, took_ms: float = 20.0) -> datetime:
    return BEGAN + timedelta(milliseconds=10 * i + took_ms)


def k6_points(i: int, status: int = 200, *, error_code: str = "", **values: float) -> list[tuple[str, float, dict[str, str]]]:
    """Return what k6 writes of one request: 1 ms to connect, 19 ms for the rest, unless told otherwise."""
    tags = {"method": "GET", "name": URL, "url": URL, "status": str(status), "scenario": "default", "error_code": error_code}
    times = {"http_req_duration": 19.0, "http_req_blocked": 1.0, "http_req_connecting": 0.9, "http_req_receiving": 0.5, **values}
    failed = float(not 200 <= status < 400)
    return [("http_reqs", 1.0, tags), *((name, value, tags) for name, value in times.items()), ("http_req_failed", failed, tags)]


def k6_json(points: list[list[tuple[str, float, dict[str, str]]]]) -> str:
    lines = ['{"type":"Metric","data":{"name":"http_reqs","type":"counter"},"metric":"http_reqs"}']
    for i, of_one in enumerate(points):
        at = ended(i).isoformat().replace("+00:00", "Z")
        for metric, value, tags in of_one:
            data = {"time": at, "value": value, "tags": tags}
            lines.append(json.dumps({"metric": metric, "type": "Point", "data": data}, separators=(",", ":")))
    return "\n".join(lines) + "\n"


def k6_csv(points: list[list[tuple[str, float, dict[str, str]]]], scale: int = 10**9) -> str:
    """Write the same as CSV; `scale` is how many units of its clock there are in a second."""
    lines = [K6_COLUMNS]
    for i, of_one in enumerate(points):
        at = int(ended(i).timestamp() * 1e6) * scale // 10**6
        for metric, value, tags in of_one:
            words = [tags[name] for name in ("error_code", "method", "name", "scenario", "status", "url")]
            lines.append(",".join([metric, str(at), f"{value:f}", *words, "", ""]))
    return "\n".join(lines) + "\n"


def k6_run(n: int) -> list[list[tuple[str, float, dict[str, str]]]]:
    return [k6_points(i, 500 if i % 10 == 9 else 200) for i in range(n)]
