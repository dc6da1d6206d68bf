"""A backfill that nobody here wrote, watched from outside: what is passed on, what is seen, and what is made of it."""

import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import psycopg
import pytest
import servers
import yaml
from backfills import ENVIRONMENT
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Exchange as Request
from servers import Server, free_port

from tapecheck import config
from tapecheck.__main__ import main
from tapecheck.backfill.observe import analysis
from tapecheck.backfill.observe import plan as plans
from tapecheck.backfill.observe.plan import ObservePlan
from tapecheck.backfill.observe.proxy import ProxyProcess
from tapecheck.backfill.observe.recording import CPU, EXCHANGES, ROWS, SESSIONS, Context, Recording
from tapecheck.backfill.observe.sessions import SessionWatch
from tapecheck.backfill.observe.validation import observe
from tapecheck.compare.plan import AFTER, Variant
from tapecheck.compare.session import Bench
from tapecheck.errors import ConfigError, MeasurementError, TargetDown
from tapecheck.recording import table_of
from tapecheck.runs.results import TargetInfo
from tapecheck.target.file import DatabaseSessions, Target
from tapecheck.target.opening import SandboxState
from tapecheck.validation import Analysis

FOREIGN = Path(__file__).parent / "foreign"
S = 1_000_000_000


# ---- the proxy ----


def asked(url: str, path: str = "/", method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    """Send a request as it is, and return status, headers and the body as it came, compressed or not."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        connection.request(method, path, body=body, headers=headers or {})
        with connection.getresponse() as answer:
            return answer.status, [(name.lower(), value) for name, value in answer.getheaders()], answer.read()


BODIES = st.sampled_from([b"", b"{}", b"\x00\xff" * 300, json.dumps({"results": [{"c": 1.0}] * 2000}).encode()])
HEADERS = st.sampled_from(["", "X-Request-Id: a,b\r\n", "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n", "Content-Type: text/plain\r\n"])


def send_pieces(request: Request, status: int, headers: str, *pieces: bytes) -> None:
    """Answer in chunks."""
    request.writer.write(f"HTTP/1.1 {status} Planted\r\n{headers}Transfer-Encoding: chunked\r\n\r\n".encode())
    for piece in (*filter(None, pieces), b""):
        request.writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


@pytest.fixture(scope="module")
def passing() -> Iterator[tuple[list[Any], ProxyProcess, Server]]:
    """What to answer next, and the proxy before who answers so."""
    answers: list[Any] = []

    async def behave(request: Request) -> None:
        status, headers, body, how = answers[-1]
        if how == "chunked":
            send_pieces(request, status, headers, *(body[i : i + 700] for i in range(0, len(body), 700)))
        else:
            request.send(b"" if request.method == "HEAD" else body, status=status, headers=headers, length=len(body))

    with Server(behave) as vendor, ProxyProcess(vendor.url) as proxy:
        yield answers, proxy, vendor


@settings(max_examples=40)
@given(
    st.sampled_from([200, 201, 403, 404, 429, 500, 503]),
    HEADERS,
    BODIES,
    st.sampled_from(["plain", "gzip", "chunked"]),
    st.sampled_from(["GET", "HEAD", "POST"]),
)
def test_no_byte_of_an_answer_is_changed(passing: Any, status: int, headers: str, body: bytes, how: str, method: str) -> None:
    """Status, headers and body are those of the vendor, whatever its encoding and framing, and so is what was asked."""
    answers, proxy, vendor = passing
    if how == "gzip":
        body, headers = gzip.compress(body, mtime=0), headers + "Content-Encoding: gzip\r\n"
    if method == "HEAD" and how == "chunked":
        return
    answers.append((status, headers, body, how))
    sent = b"\x00some=thing" if method == "POST" else None
    asked_for = {"Accept-Encoding": "gzip", "Authorization": "Bearer k", "X-Own": "1"}
    direct, through = (asked(url, "/v2/a%20b/c?x=1&apiKey=k", method, sent, asked_for) for url in (vendor.url, proxy.url))
    changes = ("connection", "transfer-encoding")  # of the hop, not of the answer
    assert through[0] == direct[0]
    assert [one for one in through[1] if one[0] not in changes] == [one for one in direct[1] if one[0] not in changes]
    assert through[2] == direct[2]
    first, second = (
        {line.lower() for line in head.split(b"\r\n") if not line.lower().startswith(b"host")} for head in vendor.seen.heads[-2:]
    )
    assert first == second
    assert vendor.seen.bodies[-1] == vendor.seen.bodies[-2]


PAGE = json.dumps({"results": [{"c": 1.5}] * 500, "next_url": "https://api.example.com/v2/next?cursor=YQ", "status": "OK"}).encode()
CUT = PAGE.index(b"example.com")


def test_next_url_is_seen_wherever_it_stands() -> None:
    """Compressed or not, at the beginning or the end, and cut in the middle; what does not lead anywhere is none."""
    first = json.dumps({"next_url": "https:\\/\\/api.example.com/x", "results": "next_url" * 300}).encode().replace(b"\\\\", b"\\")
    pages = [PAGE, first, gzip.compress(PAGE), gzip.compress(first)]

    async def behave(request: Request) -> None:
        page = pages[int(request.query["page"])]
        send_pieces(request, 200, "Content-Encoding: gzip\r\n" if page[:1] == b"\x1f" else "", page[:CUT], page[CUT:])

    path = "/v2/aggs/ticker/AAPL/range/1/day/2026-01-01/2026-02-01"
    with Server(behave) as vendor, ProxyProcess(vendor.url) as proxy:
        for number in range(len(pages)):
            asked(proxy.url, f"{path}?cursor=x&page={number}")
    seen = [(one.next_origin, one.follows, one.status, one.path) for one in proxy.exchanges()]
    assert seen == [("https://api.example.com", True, 200, path)] * 4


def test_next_url_leads_to_the_proxy_where_that_is_asked_for() -> None:
    """Only its scheme and host are others, the length holds, and the vendor is asked for nothing compressed."""
    with Server(servers.body(PAGE)) as vendor, ProxyProcess(vendor.url, rewrites=True) as proxy:
        _, headers, body = asked(proxy.url, headers={"Accept-Encoding": "gzip"})
    assert body == PAGE.replace(b"https://api.example.com", proxy.url.encode())
    assert dict(headers)["content-length"] == str(len(body))
    assert b"gzip" not in vendor.seen.heads[-1]


def test_what_is_no_request_or_has_no_end_ends_no_proxy() -> None:
    """Nor fills it: what it says of them is read by nobody while it runs, and a body is rewritten only as far as it is one page."""

    async def behave(request: Request) -> None:
        request.send(b"x" * (2**25 + 1) if request.query else b"{}")

    with Server(behave) as vendor, ProxyProcess(vendor.url, rewrites=True) as proxy:
        for line in (b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", b"?\r\n\r\n"):
            for _ in range(150):
                with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as client:
                    client.sendall(line)
                    client.recv(10)
        assert asked(proxy.url, "/?page=without+end")[0] == 502


def test_a_vendor_that_breaks_off_or_is_down_is_recorded() -> None:
    """A body that ends early is no whole answer; a refusal is a 502 that says so; neither ends the proxy."""
    with contextlib.ExitStack() as until_here:
        with Server(servers.cuts_body) as vendor, pytest.raises((http.client.HTTPException, OSError)):
            proxy = until_here.enter_context(ProxyProcess(vendor.url))
            asked(proxy.url)
        assert asked(proxy.url)[0] == 502
    cut, down = proxy.exchanges()
    assert (cut.status, bool(cut.failure), down.status, down.failure) == (0, True, 0, "ConnectError")


def test_a_vendor_with_tls_is_asked_so(tls_server: Any, ca_file: str) -> None:
    """The proxy's own authority is the target's."""
    with ProxyProcess(f"https://localhost:{tls_server.port}", ca_file=ca_file) as proxy:
        assert asked(proxy.url)[0] == 200
    with ProxyProcess(f"https://localhost:{tls_server.port}") as proxy:
        assert asked(proxy.url)[0] == 502


def test_a_port_in_use_is_a_wrong_target() -> None:
    """With what to do."""
    with Server(servers.fast) as taken, pytest.raises(ConfigError, match=r"proxy_port: got \d+, which is in use; allowed: a free port"):
        ProxyProcess("http://127.0.0.1:9", port=int(urlsplit(taken.url).port or 0)).__enter__()


# ---- the analysis, of known truths ----


def recorded(
    requests: Sequence[tuple[float, float, str, int]] = (), looks: Sequence[tuple[float, int, int]] = (), wall_s: float = 10, **context: Any
) -> Recording:
    """Return a recording of requests (began, ended, path, status) and looks (when, working, open), times in s."""
    rows = [(int(a * S), int(b * S), path, False, status, 100, "", "") for a, b, path, status in requests]
    seen = [(int(at * S), working, waiting, 0, 0, 0) for at, working, waiting in looks]
    tables = {"exchanges": (rows, EXCHANGES), "sessions": (seen, SESSIONS), "rows": ([], ROWS), "cpu": ([], CPU)}
    base = {
        "run_id": "20261123T154501Z-9f3c", "started_at": datetime(2026, 11, 23, tzinfo=UTC), "environment": ENVIRONMENT,
        "target": TargetInfo(name="t", kind="external", base_url="http://v"), "command": "c", "exit_code": 0,
        "began_ns": 0, "ended_ns": int(wall_s * S), "watched": bool(looks), "every_ms": 10,
        "proxy_url": "http://127.0.0.1:1", "vendor_url": "http://v", "rewrote": False,
    }  # fmt: skip
    return Recording(context=Context(**(base | context)), tables={name: table_of(*one) for name, one in tables.items()})


def analysed(recording: Recording, **plan: Any) -> Analysis[ObservePlan, Recording, analysis.ObserveSummary]:
    return observe.analyse(recording, ObservePlan(**plan))


def every(first: float, last: float, working: int, waiting: int) -> list[tuple[float, int, int]]:
    return [(at, working, waiting) for at in np.arange(first + 0.005, last, 0.01).tolist()]


PATH = "/v2/aggs/ticker/X%3ABTCUSD/range/5/minute/2026-01-01/2026-02-01"


def test_the_parts_of_the_wall_time_are_told_apart() -> None:
    """1 s of the vendor alone, 2 s database working, 3 s transaction open, 1 s at once, 3 s of its own; overlapping requests count once."""
    looks = [*every(0, 1, 0, 0), *every(1, 3, 1, 1), *every(3, 6, 0, 1), *every(6, 7, 0, 1), *every(7, 10, 0, 0)]
    found = analysed(recorded([(0, 0.8, PATH, 200), (0.5, 1, PATH, 200), (6, 7, PATH, 200)], looks)).summary
    assert {name: round(part.seconds, 2) for name, part in found.parts.items()} == {
        "vendor": 1.0, "database": 2.0, "transaction": 3.0, "overlap": 1.0, "own": 3.0,
    }  # fmt: skip
    assert sum(part.share for part in found.parts.values()) == pytest.approx(1)
    assert all(part.low <= part.share <= part.high for part in found.parts.values())
    assert {name: round(kind.busy_s, 2) for name, kind in found.kinds.items()} == {"api": 2.0, "database": 6.0, "own": 3.0}
    assert found.bottleneck is None and found.leading == ["database", "own"]


def test_looks_that_fail_to_come_are_no_knowledge() -> None:
    """What lies far from every look stands for nothing, and is said."""
    found = analysed(recorded((), [*every(0, 4, 1, 0), *every(9, 10, 0, 0)]))
    assert found.summary.sampled_share == pytest.approx(0.5, abs=0.02)
    assert found.summary.parts["database"].share == pytest.approx(0.8, abs=0.02)
    assert "few_looks" in {one.name for one in found.findings}


def test_without_a_database_its_time_is_not_claimed() -> None:
    """There are two parts then, and a finding."""
    found = analysed(recorded([(0, 7, PATH, 200), (1, 2, PATH, 200), (5, 6, PATH, 200)]))  # the others end within the first
    assert {name: part.share for name, part in found.summary.parts.items()} == {"vendor": 0.7, "own": pytest.approx(0.3)}
    assert {one.name for one in found.findings} == {"database_not_watched", "bottleneck_api"}


def test_refusals_pauses_and_series() -> None:
    """A refusal is counted with the time until the path is asked again; tickers are as people write them; a limit gives a floor."""
    other = "/v2/aggs/ticker/AAPL/range/1/day/a/b"
    rows = [(0, 1, PATH, 429), (1, 2, other, 200), (3, 4, PATH, 200), (5, 5.5, other, 503), (6, 6.1, "/v1/status", 200)]
    found = analysed(
        recorded(rows), requests_per_minute=60, burst=1, objectives=["refusals <= 0", "failed_requests <= 0", "floor_ratio < 3"]
    )
    summary = found.summary
    assert (summary.refusals, summary.pauses_s, summary.rate_limit_floor_s) == (1, 2.0, 4.0)
    assert summary.by_status == {"HTTP 200": 3, "HTTP 429": 1, "HTTP 503": 1}
    assert [(name, one.requests, one.refusals) for name, one in summary.series.items()] == [
        ("X:BTCUSD 5m", 2, 1),
        ("AAPL 1d", 2, 0),
        ("/v1/status ", 1, 0),
    ]
    assert summary.slowest_symbol and summary.slowest_symbol.name == "X:BTCUSD"
    assert [(one.value, str(one.verdict)) for one in found.checks] == [(1, "fail"), (2, "fail"), (2.5, "pass")]


def test_pages_that_were_promised_elsewhere_are_missed() -> None:
    """Three promised past the proxy, of which one was asked for here; none where next_url led to the proxy."""
    recording = recorded([(i, i + 0.5, PATH, 200) for i in range(4)])
    exchanges = recording.tables["exchanges"]
    changed = exchanges.set_column(7, EXCHANGES.field("next_origin"), [["http://v", "http://v", "http://v", ""]])
    changed = changed.set_column(3, EXCHANGES.field("follows"), [[False, True, False, False]])
    found = analysed(Recording(context=recording.context, tables={**recording.tables, "exchanges": changed}))
    assert found.summary.missed_pages == 2
    assert "2 pages were promised by next_url" in found.headline


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({"exit_code": 3, "said": "no table"}, "its command ended with exit code 3: no table"),
        ({"exit_code": -9}, "its command ended with signal 9: it wrote nothing"),
        ({"exit_code": None, "over_limit_s": 5}, "it was ended at the limit of 5 s; raise limit_s"),
    ],
)
def test_a_backfill_that_did_not_end_well_is_invalid(context: dict[str, Any], said: str) -> None:
    """Whatever its objectives say."""
    found = analysed(recorded([(0, 1, PATH, 200)], **context), objectives=["duration_s < 100"])
    assert [(str(one.verdict), one.reason) for one in found.checks] == [("invalid", said)]
    assert "not_whole" in {one.name for one in found.findings}


@settings(max_examples=20)
@given(st.sets(st.sampled_from(sorted(plans.METRICS)), min_size=1))
def test_every_objective_that_a_plan_accepts_yields_a_check(metrics: set[str]) -> None:
    """Of a backfill that did nothing at all, too: no data, and never a pass."""
    found = analysed(recorded(), objectives=[f"{metric} <= 10" for metric in sorted(metrics)])
    assert len(found.checks) == len(metrics)
    assert {str(one.verdict) for one in found.checks} <= ({"no_data"} | ({"pass"} if metrics & {"duration_s", "requests"} else set()))


# ---- real backfills ----


@pytest.fixture
def table(sandbox: SandboxState) -> Iterator[psycopg.Connection[Any]]:
    """The table of a foreign system, empty."""
    with psycopg.connect(str(sandbox.database_url), autocommit=True) as connection:
        columns = (
            "symbol text, timeframe text, time_ms bigint, o float8, h float8, l float8, c float8, v float8, mean float8, spread float8"
        )
        connection.execute(f"CREATE TABLE market_data ({columns}, PRIMARY KEY (symbol, timeframe, time_ms))")
        yield connection
        connection.execute("DROP TABLE market_data")


BARE = {"name": "x", "kind": "external", "base_url": "http://127.0.0.1:9", "requests": {"status": "GET /status"}}
OWN = {"start": {"command": ["true"]}, "vendor_url_env": "V"}


def target_of(sandbox: SandboxState, *command: str, **observe: Any) -> Target:
    own = {
        "start": {"command": [sys.executable, *command], "folder": str(FOREIGN)},
        "vendor_url_env": "POLYGON_BASE_URL",
        "database": {"application_name": "camel backfill"},
        "tables": ["market_data"],
    }
    given = {"source_url": sandbox.upstream_url, "api_key": {"file": sandbox.upstream_key_file}, "database_url": sandbox.database_url}
    return Target.model_validate(BARE | {"allow_drills": True, "backfill": given | {"observe": own | observe}})


def test_a_session_that_sends_rows_waits_for_its_client(sandbox: SandboxState) -> None:
    """The server calls it active during a COPY, and yet it is the client that works."""
    url, sessions = str(sandbox.database_url), DatabaseSessions(application_name="copies")
    with psycopg.connect(url, application_name="copies") as copying, SessionWatch(url, sessions, (), every_s=0.01) as watch:
        copying.execute("CREATE TEMP TABLE taken (a int)")
        with copying.cursor().copy("COPY taken FROM STDIN"):
            seen = len(watch._looks)
            while len(watch._looks) < seen + 3 and not watch.lost:
                time.sleep(0.01)
            working, waiting = watch._looks[-1][1:3]
    assert (working, waiting, watch.lost) == (0, 1, "")


ASKS = (
    "import http.client, os, sys; client = http.client.HTTPConnection(os.environ['POLYGON_BASE_URL'][7:]); "
    "client.request('GET', '/v2/aggs/ticker/A/range/1/day/2026-10-01/2026-10-02?apiKey=' + sys.argv[3]); client.getresponse().read()"
)


def test_a_secret_in_a_command_is_in_no_artefact(sandbox: SandboxState, tmp_path: Path) -> None:
    """A password in a database's URL, values of options that are named like secrets, and a key that passed through the proxy."""
    url, words = "postgresql://me:s3cr3t-Pa55word@127.0.0.1/x", ("--api-key", "k3y-Zx81-planted-9", "--token=t0ken-Zx81-planted-8")
    code = f"{ASKS}; print(*sys.argv[1:], file=sys.stderr); sys.exit(1)"
    plan = ObservePlan(objectives=("duration_s < 100",))
    found = observe.analyse(observe.run(plan, target_of(sandbox, "-c", code, url, *words), out=str(tmp_path)), plan)
    done = observe.record(found, settings=observe.settings(target="t", plan="config/observe.yaml", run="new", out=str(tmp_path)))
    assert done.folder and "ended with exit code 1" in found.headline and found.summary.by_status == {"HTTP 401": 1}
    assert observe.analyse(observe.read(str(done.folder)), plan).summary == found.summary
    left = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert not [secret for secret in (b"s3cr3t-Pa55word", b"k3y-Zx81", b"t0ken-Zx81") if secret in left]
    assert b"--api-key" in left


def test_a_reset_that_fails_is_said(sandbox: SandboxState) -> None:
    """Before anything is started."""
    plan = ObservePlan(reset=(sys.executable, "-c", FAILS))
    with pytest.raises(MeasurementError, match="reset ended with exit code 3: no table market_data"):
        observe.run(plan, target_of(sandbox, "-c", "pass"))


FAILS = "import sys; print('no table market_data', file=sys.stderr); sys.exit(3)"
LEAVES = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); {FAILS}"


@pytest.mark.parametrize(
    ("code", "more", "names", "said"),
    [
        (LEAVES, {}, {"not_whole", "processes_left", "proxy_not_asked", "database_not_touched"}, "time.sleep(600)"),
        ("import time; time.sleep(600)", {}, {"not_whole", "proxy_not_asked", "database_not_touched"}, "ended at the limit of 1 s"),
        ("pass", {"tables": ["market_date"]}, {"proxy_not_asked", "database_not_touched", "no_table"}, "has no table market_date"),
    ],
    ids=["fails and leaves a child", "hangs", "no table"],
)
def test_what_goes_wrong_is_a_finding_and_nothing_is_left(
    sandbox: SandboxState, table: psycopg.Connection[Any], code: str, more: dict[str, Any], names: set[str], said: str
) -> None:
    """A command that fails, hangs, leaves children, or is not what the target says."""
    plan = ObservePlan(limit_s=1 if "limit" in said else 100)
    before = set(psutil.pids())
    found = observe.analyse(observe.run(plan, target_of(sandbox, "-c", code, **more)), plan)
    assert names == {one.name for one in found.findings if not one.name.startswith(("bottleneck", "balanced", "few_looks", "measured_"))}
    assert said in " ".join(one.finding for one in found.findings)
    left = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before and "time.sleep(600)" in " ".join(p.info["cmdline"] or [])]
    assert not left


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"start": {"command": ["no-such-program"]}}, ConfigError, "no-such-program: No such file or directory"),
        ({"start": {"request": "begin"}, "done": {"request": "status", "when": "done"}}, ConfigError, "start.request: got begin"),
    ],
    ids=["program", "request"],
)
def test_a_wrong_target_starts_nothing(
    sandbox: SandboxState, table: psycopg.Connection[Any], more: dict[str, Any], error: type[Exception], said: str
) -> None:
    """It is refused by the name of what is wrong."""
    with pytest.raises(error, match=said):
        observe.run(ObservePlan(), target_of(sandbox, "-c", "pass", **more))


def test_a_command_of_a_plan_needs_the_leave_of_the_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan may come from anybody: `check` names its commands, and none is run on a target that does not say so, nor on one it names."""
    target = Target.model_validate(BARE | {"backfill": {"source_url": "http://127.0.0.1:9", "observe": OWN}})
    for key in ("command", "reset"):
        with pytest.raises(ConfigError, match=r"allow_drills: got false, while the plan runs touch x; allowed: allow_drills: true, if"):
            observe.run(ObservePlan.model_validate({key: ["touch", "x"]}), target)
    (file := tmp_path / "plan.yaml").write_text("every_ms: 10\nreset: [touch, a b]\n")
    assert main(["check", str(file)]) == 0 and "needs `allow_drills: true` on the target: touch 'a b'\n" in capsys.readouterr().out
    (after := tmp_path / "after.yaml").write_text(yaml.safe_dump(BARE | {"allow_drills": True}))
    with pytest.raises(ConfigError, match="after_target: got allow_drills: true, which target x does not say"):
        Bench(target).check(Variant(proof="p", side=AFTER, plan=ObservePlan(), target=str(after)))


def test_a_database_that_is_down_is_said() -> None:
    """Before anything is started."""
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/x"
    watched = {"source_url": "http://127.0.0.1:9", "database_url": url, "observe": OWN | {"tables": ["a"]}}
    target = Target.model_validate(BARE | {"backfill": watched})
    with pytest.raises(TargetDown, match="the database of the backfill cannot be watched"):
        observe.run(ObservePlan(), target)


def test_a_service_that_a_request_starts_is_watched_until_it_says_so(sandbox: SandboxState) -> None:
    """It is asked until its answer meets the expression; the proxy's port is the one that it was told."""
    port, began = free_port(), []

    async def service(request: Request) -> None:
        if request.method == "POST":
            began.append(asked(f"http://127.0.0.1:{port}", "/v2/aggs/ticker/SPY/range/1/day/2026-10-01/2026-11-01")[0])
        request.send(json.dumps({"jobs": [{"state": "done" if began else "idle"}]}).encode())

    with Server(service) as api:
        told = {"start": {"request": "begin"}, "done": {"request": "status", "when": "jobs[0].state == 'done'"}}
        target = target_of(sandbox, "-", proxy_port=port, database=None, tables=[], **told)
        requests = {"begin": "POST /begin", "status": "GET /jobs"}
        target = Target.model_validate(target.model_dump() | {"base_url": api.url, "requests": requests})
        plan = ObservePlan(limit_s=60)
        found = observe.analyse(observe.run(plan, target), plan)
    assert began == [401] and found.summary.by_status == {"HTTP 401": 1}
    assert [str(one.verdict) for one in found.checks] == []


@pytest.mark.interrupts_itself
def test_an_interrupt_ends_the_backfill(sandbox: SandboxState, tmp_path: Path) -> None:
    """Ctrl-C leaves no process of the backfill."""
    pid = tmp_path / "pid"
    os.mkfifo(pid)
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with ThreadPoolExecutor(1) as watching:

        def interrupted() -> int:
            child = int(pid.read_text())
            os.kill(os.getpid(), signal.SIGINT)
            return child

        child = watching.submit(interrupted)
        with pytest.raises(KeyboardInterrupt):
            observe.run(ObservePlan(), target_of(sandbox, "-c", code, database=None, tables=[]))
        assert not psutil.pid_exists(child.result())


def test_a_target_without_one_is_refused() -> None:
    """With what to write."""
    example = config.read(Target, config.CONFIG / "targets" / "example.yaml")
    with pytest.raises(ConfigError, match=r"backfill\.observe: got nothing; allowed: backfill: \{source_url: …, observe: \{start:"):
        observe.run(ObservePlan(), example)
