"""Files as other tools write them, of requests with known answers: begun 10 ms apart, 20 ms each, every tenth a 500."""

import json
from datetime import UTC, datetime, timedelta

BEGAN = datetime(2026, 11, 2, 10, 15, tzinfo=UTC)
URL = "http://me:pass@127.0.0.1:8000/api?symbol=AAPL&apiKey=s3cret"
K6_COLUMNS = "metric_name,timestamp,metric_value,error_code,method,name,scenario,status,url,extra_tags,metadata"


WRK2 = """Running 10s test @ http://127.0.0.1:8000/a
  1 threads and 4 connections
  Thread calibration: mean lat.: 1.464ms, rate sampling interval: 10ms
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.44ms  706.00us  12.92ms   68.59%
    Req/Sec     2.11k   212.65     3.44k    72.73%
  Latency Distribution (HdrHistogram - Recorded Latency)
 50.000%    1.37ms
 75.000%    1.85ms
 90.000%    2.42ms
 99.000%    3.02ms
 99.900%    5.72ms
100.000%   12.93ms

  Detailed Percentile spectrum:
       Value   Percentile   TotalCount 1/(1-Percentile)

       1.371     0.500000        49680         2.00
       2.663     0.950000        94417        20.00
#[Mean    =        1.440, StdDeviation   =        0.706]
#[Max     =       12.920, Total count    =        99360]
#[Buckets =           27, SubBuckets     =         2048]
----------------------------------------------------------
  119977 requests in 10.00s, 7.31MB read
  Non-2xx or 3xx responses: 20
Requests/sec:  11997.74
Transfer/sec:    748.44KB
"""
OHA = {
    "summary": {"successRate": 0.98, "total": 10.0, "slowest": 0.9, "fastest": 0.004, "average": 0.05, "requestsPerSec": 400.0},
    "latencyPercentiles": {"p50": 0.04, "p90": 0.07, "p95": 0.09, "p99": 0.15, "p99.9": 0.5},
    "statusCodeDistribution": {"200": 3900, "503": 20},
    "errorDistribution": {"aborted due to deadline": 80, "connection closed before message completed": 5},
}
JTL = "timeStamp,elapsed,label,responseCode,responseMessage,threadName,success,failureMessage,bytes,URL,Latency,Connect"
OF_JTL = (  # code, message, success, and the kind of failure that it is
    ("200", "OK", "true", None),
    ("200", "OK", "false", "content"),
    ("503", "Service, Unavailable", "false", "status"),
    ("Non HTTP response code: java.net.ConnectException", "Non HTTP response message: Connection refused", "false", "connect_refused"),
    ("Non HTTP response code: java.net.SocketTimeoutException", "Read timed out", "false", "timeout"),
    ("Non HTTP response code: java.net.UnknownHostException", "timeout.test", "false", "unreachable"),
    ("Non HTTP response code: org.apache.http.NoHttpResponseException", "x:1 failed to respond", "false", "closed_early"),
)


def jtl() -> str:
    """Write one request of each, with a second line in the messages, and the sum of a transaction controller."""
    at_ms, rest = int(BEGAN.timestamp() * 1000), "t 1-1,{},,100,http://127.0.0.1:8000/a?token=s3cret,15,1"
    rows = [
        f'{at_ms + i},20,"GET a, b",{code},"{said}\nmore",{rest.format(is_right)}'  # over two lines
        for i, (code, said, is_right, _) in enumerate(OF_JTL)
    ]
    rows.append(f'{at_ms},90,all,200,"Number of samples in transaction : 7, number of failing samples : 6",{rest.format("false")}')
    return "\n".join([JTL, *rows, ""])


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
