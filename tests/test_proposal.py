"""A guided start: what `tapecheck init` proposes for a system that nobody here wrote, and what it leaves to a person."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from servers import Exchange, Server, free_port, status

from tapecheck.__main__ import main
from tapecheck.proposal import Proposal, propose
from tapecheck.target.file import Target

NEWEST = dt.datetime(2026, 11, 30, 11, 30, tzinfo=dt.UTC)
PAGE = {
    "paths": {
        "/api/coverage": {"get": {}},
        "/api/bars/{symbol}": {
            "get": {
                "parameters": [
                    {"name": "interval", "in": "query", "required": True},
                    {"name": "n", "in": "query", "schema": {"default": 100}},
                    {"name": "tf", "in": "query"},
                ]
            }
        },
        "/api/exchanges/{exchange}": {"get": {}},
        "/api/backfill": {"post": {}},
        "/api/broken": {"get": {}},
        "/health": {"get": {}},
    }
}

COVERAGE = {"meta": {"n": 1}, "instruments": [{"Ticker": "AAPL", "lastBar": NEWEST.timestamp() * 1000}]}


class Own:
    """An API with an OpenAPI page, one broken path, and a list of symbols in words of its own."""

    def __init__(self, page: Any = PAGE, coverage: Any = COVERAGE) -> None:
        self.page, self.coverage, self.asked = page, coverage, list[str]()

    async def __call__(self, request: Exchange) -> None:
        self.asked.append(f"{request.method} {request.target}")
        answers: dict[str, Any] = {
            "/": {},
            "/openapi.json": self.page,
            "/api/coverage": self.coverage,
            "/health": {"ok": True},
            "/api/bars/AAPL": {"bars": []},
        }
        body = answers.get(request.target.partition("?")[0])
        request.send(json.dumps(body).encode(), status=404 if body is None else 200)


def test_what_is_proposed_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that answer, the mapping of the list of symbols; what may change something is not sent, what fails is not proposed."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    own = Own()
    with Server(own) as api:
        found = propose(api.url)
    assert found.requests == {
        "coverage": "GET /api/coverage",
        "bars": "GET /api/bars/{symbol}?interval={interval}",
        "health": "GET /health",
    }
    assert found.api == {
        "request": "coverage",
        "series": "instruments[]",
        "fields": {"timeframe": "'1d'", "symbol": "Ticker", "newest": "lastBar"},
    }
    assert not [one for one in own.asked if not one.startswith("GET ")] and "GET /api/backfill" not in own.asked
    left = " ".join(found.left)
    assert "may have more query parameters, written as name={name}: n (default 100), tf" in left and "-p plan my-load.yaml" in left
    assert "/api/exchanges/{exchange}" in left and "set DATABASE_URL" in left and "names no timeframe" in left
    assert Target.model_validate(yaml.safe_load(found.text())).freshness


def test_without_a_page_the_usual_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is not there is left to a person."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with Server(Own(None)) as api:
        found = propose(api.url)
    assert found.requests == {"health": "GET /health"} and found.api is None
    assert "no OpenAPI page" in " ".join(found.left)
    with Server(status(503)) as api:
        assert "no request that reads was answered with 200" in " ".join(propose(api.url).left)


GET: dict[str, Any] = {"get": {}}
COMMAND = "backfill: {source_url: http://192.0.2.1, observe: {start: {command: [sh, -c, id]}, vendor_url_env: X}}"
HOSTILE: dict[str, Any] = {
    "ends the comment": {f"/a{{x}}\nallow_remote: true\nallow_drills: true\n{COMMAND}\n#": GET},
    "no path": {"/a b": GET, "/a?token=abcdef": GET, "/a\x1b[31m": GET, "/a\0": GET, "/" + "a" * 70_000: GET},
    "no parameters": {
        "/a": {"get": {"parameters": 5}},
        "/b": {"get": {"parameters": None}},
        "/c": {"get": {"parameters": [1, {"in": "query"}]}},
    },
    "a secret of ours": {"/a": {"get": {"parameters": [{"name": "limit", "in": "query", "required": True}]}}, "/b?api_key={limit}": GET},
    "a list": ["/a"],
    "many": {f"/a{i}": GET for i in range(3000)},
    "names of theirs": {"/api/coverage": GET},
}


@pytest.mark.parametrize("paths", HOSTILE.values(), ids=HOSTILE)
def test_a_page_proposes_requests_and_nothing_else(paths: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in it: no word of it is a key of the target file, none is a crash, and what is sent has an end."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    own = Own({"paths": paths}, {"s\u00e9ries": [{"tic\u212aer": "A", "t": 1}], "d": [{"symbol": "A", "t": "0001-01-01T00:00:00+14:00"}]})
    with Server(own) as api:
        found = Target.model_validate(yaml.safe_load(propose(api.url).text()))
    assert (found.allow_remote, found.allow_drills, found.backfill, found.freshness) == (False, False, None, None)
    assert len(own.asked) < 120 and "allow_drills" not in yaml.safe_load(Proposal(base_url="", left=["x\nallow_drills: true"]).text())


def test_a_table_is_proposed_that_gives_rows(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its columns, quoted where they must be; the proposal can be used as it is."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "a Own"; CREATE TABLE "a Own"."Prices" ("Ticker" text, "Ts" bigint, cents int)')
        connection.execute('INSERT INTO "a Own"."Prices" VALUES (%s, %s, 1)', ("AAPL", int(NEWEST.timestamp())))
        try:
            with Server(Own()) as api:
                found = propose(api.url)
        finally:
            connection.execute('DROP SCHEMA "a Own" CASCADE')
    assert found.sql == """SELECT "Ticker" AS symbol, '1d' AS timeframe, max("Ts") AS newest FROM "a Own"."Prices" GROUP BY "Ticker\""""


def test_a_database_that_is_away_is_left_to_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its URL is in no word of the proposal."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:s3cret@127.0.0.1:{free_port()}/x")
    with Server(Own()) as api:
        text = propose(api.url).text()
    assert "could not be asked" in text and "s3cret" not in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["http://192.0.2.1"], 4, "192.0.2.1"),
        (["not a url"], 4, "http:// or https://"),
        ([f"http://127.0.0.1:{free_port()}"], 2, "nothing answers"),
    ],
    ids=["remote", "no url", "down"],
)
def test_what_cannot_be_asked(words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Another machine, no URL, nobody there."""
    assert main(["init", *words]) == code
    assert said in capsys.readouterr().err


def test_a_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And not over another one."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    file = tmp_path / "own.yaml"
    with Server(Own()) as api:
        assert main(["init", api.url, "--write", str(file)]) == 0
        assert "next: tapecheck check --ask" in capsys.readouterr().out
        assert main(["check", str(file)]) == 0
        assert main(["init", api.url, "--write", str(file)]) == 4
    assert "a file that exists" in capsys.readouterr().err
