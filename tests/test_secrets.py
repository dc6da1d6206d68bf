"""A recognizable secret is planted in each place that can send it back, and every byte that is left is searched, in each encoding."""

import json
import socket
import struct
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import servers
from samples import burst, recording
from servers import Exchange, Server
from test_text import ENCODINGS

from tapecheck import __main__, config, text
from tapecheck.backfill.validation import backfill
from tapecheck.errors import TapecheckError, TargetDown, TargetError
from tapecheck.load.plan import LoadPlan
from tapecheck.load.validation import load
from tapecheck.runs import batch, folders
from tapecheck.runs.outcomes import CRASHED
from tapecheck.target.file import Target

KEY = "s3cret/Key+with\"quote'&<x>-Zx81"
PLAN = LoadPlan.model_validate({"scenarios": {"s": {"executor": "burst", "concurrency": 2, "rounds": 10, "request": "a"}}})


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test plants is known to no other."""
    monkeypatch.setattr(text, "_known", {})


def leaks(data: bytes) -> list[str]:
    """Return in which encodings the secret stands in what was left."""
    said = data.decode("utf-8", "replace")
    return [name for name, encode in ENCODINGS.items() if not name.startswith(("JSON in JSON", "base64 ")) and encode(KEY) in said]


def left(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each file below a folder, and of Parquet also what it says when it is read."""
    for file in (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        yield str(file), file.read_bytes()
        if file.suffix == ".parquet":
            table = pq.read_table(file)
            yield f"{file}, read", f"{table.schema.metadata} {table.to_pydict()}".encode()


async def echo(exchange: Exchange) -> None:
    """Answer rightly at first, then with the secret wherever an answer can say something."""
    said = {name: encode(KEY) for name, encode in ENCODINGS.items()}
    header = f'Server-Timing: app;dur=1;desc="{KEY}", {ENCODINGS["percent"](KEY)};dur=2\r\nX-Echo: {KEY}\r\n'
    if exchange.server.seen.requests < 8 or exchange.number % 4 == 0:
        exchange.send(exchange.answer(echo=said), headers=header)
    elif exchange.number % 4 == 1:
        exchange.send(json.dumps({"error": said, "message": KEY}).encode(), status=500, headers=header)
    elif exchange.number % 4 == 2:
        exchange.send(status=302, headers=f"Location: /{ENCODINGS['percent'](KEY)}?x={ENCODINGS['percent'](KEY)}\r\n{header}")
    else:
        exchange.send(f"<html><title>{KEY}</title>{KEY}".encode(), headers=f"Content-Encoding: {KEY}\r\n")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short name: the path of a socket in it has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="t", ignore_cleanup_errors=True) as name:
        yield Path(name)


def target(folder: Path, url: str, more: str = "") -> str:
    file = folder / "target.yaml"
    header = "headers: {X-API-Key: {env: PLANTED_KEY}}"
    file.write_text(f"name: planted\nkind: external\nbase_url: {url}\nrequests: {{features: 'GET /f/{{symbol}}'}}\n{header}\n{more}")
    return str(file)


def test_no_byte_that_a_load_run_leaves_holds_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the terminal, run folder, notebook, pages, Parquet and temporary files; the run itself is judged as what it is."""
    (tmp_path / "plan.yaml").write_text(
        "scenarios: {s: {executor: burst, concurrency: 4, rounds: 5, request: features, parameters: {symbol: [AAPL]}}}\n"
        "objectives: [success_ratio > 0.9]\ngenerator: {lag_p99_ms: 2000, cpu_ratio: 1}\n"
    )
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    own = {"HOME": "", "TMPDIR": "tmp", "TAPECHECK_MEASUREMENTS": "measurements"}
    for name, value in own.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("PLANTED_KEY", KEY)
    with Server(echo) as server:
        words = ("--target", target(tmp_path, server.url), "-p", "plan", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"))
        code = __main__.main(["run", "load", *words])
        assert KEY.encode() in server.seen.heads[0], "it was sent"
    said = capfd.readouterr()
    assert code == 1, said
    found = [*left(tmp_path), ("stdout", said.out.encode()), ("stderr", said.err.encode())]
    assert len(found) > 10
    assert {name: leaks(data) for name, data in found if leaks(data)} == {}


def with_key(target: Mapping[str, Any]) -> Target:
    return config.validate(Target, {**target, "headers": {"X-API-Key": {"env": "PLANTED_KEY"}}}, file="t")


@pytest.mark.parametrize(
    "behaviour",
    [
        servers.status(401, text=json.dumps({"error": f"bad key {KEY}", "message": f"key {KEY}"}).encode()),
        servers.status(500, text=f"<html><title>key {KEY}</title>".encode()),
        servers.status(404, text=("x" * 190 + KEY).encode()),
        servers.status(302, f"Location: http://h/{ENCODINGS['percent'](KEY)}\r\n"),
        servers.body(("{bad " + ENCODINGS["JSON"](KEY) + ENCODINGS["percent"](KEY)).encode()),
        servers.body(f"the key is {ENCODINGS['base64'](KEY)}".encode()),
        servers.body(b"{}", f"Content-Encoding: {KEY}\r\n"),
        servers.raw(f"HTTP/1.1 {KEY}\r\n\r\n".encode(), close=True),
    ],
    ids=["refused", "web page", "cut", "redirect", "no JSON", "base64", "encoding", "no HTTP"],
)
def test_no_error_of_a_target_that_sends_the_secret_back_holds_it(behaviour: servers.Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what raised it, nor a piece of it that is cut off; a server that fails is down, whatever else is wrong is the target's."""
    monkeypatch.setenv("PLANTED_KEY", KEY)
    request = {"request": "GET /", "expect": {"json": {"symbol": "AAPL"}}}
    with Server(behaviour) as server, pytest.raises(TargetError) as caught:
        where = {"name": "t", "kind": "external", "base_url": server.url, "requests": {"a": request}}
        load.run(PLAN, with_key(where))
    assert KEY.encode() in server.seen.heads[0], "it was sent"
    said = "".join(traceback.format_exception(caught.value))
    assert not leaks(said.encode()) and KEY[:9] not in str(caught.value), said
    assert isinstance(caught.value, TargetDown) == ("answered 500" in said)


@pytest.mark.parametrize("secret", ["AAPL", '"'])
def test_a_short_secret_makes_no_right_target_fail(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is blanked out before it is judged."""
    monkeypatch.setenv("PLANTED_KEY", secret)
    request = {"request": "GET /?symbol=AAPL", "expect": {"json": {"symbol": "AAPL"}}}
    with Server(servers.fast) as server:
        where = {"name": "t", "kind": "external", "base_url": server.url, "requests": {"a": request}}
        found = load.run(PLAN, with_key(where))
    assert load.summarize(found, PLAN)["s"].failed == 0


@pytest.mark.parametrize("source", ["environment", "file"])
def test_an_empty_secret_is_an_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stand between all characters."""
    monkeypatch.setenv("PLANTED_KEY", "")
    (tmp_path / "key").write_text("\n")
    place = {"env": "PLANTED_KEY"} if source == "environment" else {"file": str(tmp_path / "key")}
    where = {"name": "t", "kind": "external", "base_url": "http://127.0.0.1:9", "requests": {"a": "GET /"}, "headers": {"X-API-Key": place}}
    with pytest.raises(config.ConfigError, match="got nothing; allowed: the secret, as in: "):
        load.run(PLAN, config.validate(Target, where, file="t"))


def refusing_database() -> tuple[socket.socket, str]:
    """Return a socket that answers PostgreSQL's greeting with an error which repeats the password, and its URL."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                if struct.unpack("!II", connection.recv(8))[1] == 80877103:  # asks for TLS
                    connection.sendall(b"N")
                    connection.recv(8)
                connection.recv(4096)
                fields = b"".join(kind + said.encode() + b"\0" for kind, said in ((b"S", "FATAL"), (b"C", "28P01"), (b"M", f"no {KEY}!")))
                connection.sendall(b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0")

    threading.Thread(target=serve, daemon=True).start()
    return listening, f"postgresql://bob:{ENCODINGS['percent'](KEY)}@127.0.0.1:{listening.getsockname()[1]}/market"


def test_no_error_of_a_database_holds_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses in words that hold the password; no file is left."""
    listening, url = refusing_database()
    monkeypatch.setenv("PLANTED_KEY", KEY)
    monkeypatch.setenv("PLANTED_URL", url)
    with listening, Server(echo) as vendor:
        more = f"backfill: {{source_url: {vendor.url}, api_key: {{env: PLANTED_KEY}}, database_url: {{env: PLANTED_URL}}}}\n"
        given = {"profile": "small", "symbols": "all", "timeframes": "all", "days": 0, "run": "new", "out": str(tmp_path / "out")}
        settings = backfill.settings(target=target(tmp_path, vendor.url, more), plan="config/backfill.yaml", **given)
        with pytest.raises(TapecheckError, match=r"no \*\*\*!") as caught:
            backfill.recording(backfill.plan(settings), settings)
    assert not leaks("".join(traceback.format_exception(caught.value)).encode())
    assert list(left(tmp_path / "out")) == []


SHOWN = """
import sys
from IPython.display import HTML, display
from tapecheck import notebook, text
text.learn({key!r})
notebook.settle()
"""
CELLS = ("print(KEY); print(repr(KEY), file=sys.stderr)", "display(HTML(f'<b>{KEY}</b>')); KEY", "raise ValueError(KEY)")


def test_no_message_of_a_notebook_holds_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a cell prints, shows or raises; the executed notebook and its report are as they left the kernel."""
    monkeypatch.setattr(config, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("PLANTED", KEY)
    begin = SHOWN.format(key="@").replace("'@'", "KEY").replace("import sys", 'import os, sys\nKEY = os.environ["PLANTED"]')
    cells = [nbformat.v4.new_code_cell(source) for source in ('out: str = "x"  # where', begin, *CELLS)]
    cells[0].metadata["tags"] = ["parameters"]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, tmp_path / "load.ipynb")
    outcome = batch.run("load", {}, tmp_path / "out")
    assert outcome.exit_code == CRASHED and outcome.folder and text.MARK in outcome.message
    said = (outcome.folder / "notebook.ipynb").read_text()
    assert said.count(text.MARK) >= 6, "each output is there"
    assert {name: leaks(data) for name, data in (*left(tmp_path / "out"), ("message", outcome.message.encode())) if leaks(data)} == {}


def test_no_file_of_a_run_folder_holds_the_secret(tmp_path: Path) -> None:
    """Neither a column, a context, a row of failures, a finding nor a document, whatever wrote it."""
    text.learn(KEY)
    found = recording({"s": burst([0.1])})
    samples = found.tables["samples"]
    errors = pa.array([f"timeout at {KEY}"] * len(samples)).dictionary_encode().cast(samples.schema.field("error").type)
    samples = samples.set_column(samples.column_names.index("error"), "error", errors)
    context = replace(found.context, target=replace(found.context.target, base_url=f"http://h/{KEY}"))
    found = replace(found, context=context, tables={**found.tables, "samples": samples})
    settings = load.settings(target="t", plan="p", run="new", out=str(tmp_path), scenarios="all", rounds=0)
    folders.keep("kept", found.stored(), "load", out=tmp_path)
    done = load.record(load.analyse(found, PLAN), settings=settings)
    assert done.folder and "timeout at ***" in (done.folder / "failures.jsonl").read_text()
    rows: Mapping[str, object] = {"journals.jsonl": [{"output": {KEY: KEY}}], "definition.md": f"# {KEY}\n", "trace.json": {"k": KEY}}
    folders.record(replace(done.result, run_id="more"), out=tmp_path, tables={}, files=rows)
    files = list(left(tmp_path))
    assert len(files) > 10
    assert {name: leaks(data) for name, data in files if leaks(data)} == {}
