"""A market-data API of another kind: plain WSGI, a list of series, prices in cents, times without a zone."""

import datetime as dt
import json
import os
import socketserver
import sys
import threading
from collections.abc import Iterator
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import psycopg

LIE_DAYS = int(os.environ.get("LIE_DAYS", "0"))  # added to what is said of AAPL
SERIES = "SELECT i.code, c.span, max(c.opened) FROM px.candles c JOIN ref.instruments i ON i.id = c.instrument GROUP BY 1, 2"
ROWS = """SELECT c.opened, c.open_c, c.close_c FROM px.candles c JOIN ref.instruments i ON i.id = c.instrument
WHERE i.code = %s AND c.span = %s ORDER BY c.opened DESC LIMIT %s"""
own = threading.local()


def rows(statement: str, *given: object) -> list[tuple]:
    if not hasattr(own, "connection"):
        own.connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, application_name="cents api")
    return own.connection.execute(statement, given).fetchall()


def series() -> list[dict]:
    lies = {"AAPL": dt.timedelta(days=LIE_DAYS)}
    return [
        {"code": code, "span": span, "last": (last + lies.get(code, dt.timedelta())).isoformat(), "light": "green"}
        for code, span, last in rows(SERIES)
    ]


def answer(path: str, query: dict[str, str]) -> tuple[str, object]:
    if path == "/up":
        return "200 OK", {"up": rows("SELECT 1")[0][0]}
    if path == "/series":
        return "200 OK", {"series": series()}
    if path == "/candles":
        found = rows(ROWS, query["code"], query["span"], int(query.get("n", "100")))
        said = {"code": query["code"], "rows": [[at.isoformat(), first, last] for at, first, last in found]}
        return ("200 OK", said) if found else ("404 Not Found", {"why": f"nothing of {query['code']}"})
    return "404 Not Found", {"why": "no such path"}


def application(environ: dict, start_response) -> Iterator[bytes]:
    status, said = answer(environ["PATH_INFO"], dict(parse_qsl(environ["QUERY_STRING"])))
    body = json.dumps(said).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    yield body


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 256


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), application, Server, Quiet).serve_forever()
