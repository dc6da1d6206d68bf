"""`tapecheck check --ask`: tries one plain request or statement of each kind that a target file names. It changes nothing."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tapecheck import database
from tapecheck.backfill.plan import endpoints
from tapecheck.backfill.session import ask_source
from tapecheck.errors import TapecheckError, first_line, shown
from tapecheck.http import Client
from tapecheck.recovery import freshness
from tapecheck.recovery.contradictions import read_plan
from tapecheck.recovery.recording import Row
from tapecheck.resources import locate
from tapecheck.target import opening, templates
from tapecheck.target.file import Target
from tapecheck.target.mapping import ReportedSeries

EXAMPLES: dict[str, str | int | float] = {"symbol": "AAPL", "timeframe": "1d", "limit": 10}  # for the names in a template
READS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPart:
    """One part of a target file: whether it works (None: it was not asked), and in words what came of it."""

    name: str
    works: bool | None
    said: str

    def __str__(self) -> str:
        return f"{'works' if self.works else 'not asked' if self.works is None else 'FAILS':9}  {self.name}: {self.said}"


def ask(path: str | Path) -> Iterator[AskedPart]:
    """Yield each part of a target file as it is tried; of its requests only those that read.

    Raises:
        ConfigError: the file is wrong, or a secret that its requests need is not set; nothing was sent.
    """
    target = opening.open_target(path)
    with Client(target) as client:
        for name in target.requests:
            yield _request(client, target, name)
    for name, selector in target.processes.items():
        found = locate(selector)
        pids = f"pid {', '.join(str(one.pid) for one in found)}" if found else "no such process here"
        yield AskedPart(name=f"processes.{name}", works=bool(found), said=pids)
    if target.freshness:
        yield from _freshness(target)
    if target.backfill:
        yield from _backfill(target)


def _tried(name: str, question: Callable[[], str]) -> AskedPart:
    try:
        return AskedPart(name=name, works=True, said=question())
    except (TapecheckError, psycopg.Error, OSError) as error:
        return AskedPart(name=name, works=False, said=first_line(error))


def _request(client: Client, target: Target, name: str) -> AskedPart:
    template, at = target.requests[name], f"requests.{name}"
    if template.method not in READS:
        return AskedPart(name=at, works=None, said=f"{template.method} may change something")
    if unknown := [one for one in templates.placeholders(template) if one not in EXAMPLES]:
        return AskedPart(name=at, works=None, said=f"only a plan knows {', '.join('{' + one + '}' for one in unknown)}")
    answer = client.ask(name, EXAMPLES)
    if answer.failure:
        return AskedPart(name=at, works=False, said=first_line(answer.failure))
    took = f"HTTP {answer.status}, {len(answer.body):,} bytes in {(answer.done_s - answer.sent_s) * 1000:.0f} ms"
    is_right = answer.status == template.expect.status
    return AskedPart(name=at, works=is_right, said=took if is_right else f"{took}: {shown(answer.body)}")


def _freshness(target: Target) -> Iterator[AskedPart]:
    plan, mapped = read_plan("config/rto_rpo.yaml"), target.freshness
    assert mapped
    if mapped.api:
        with Client(target) as client:
            yield _tried("freshness.api", lambda: _shown(list(freshness.reported(client, plan, mapped)[1].series)))
    if mapped.sql:

        def read() -> str:
            stored = freshness.read_if_there(endpoints(target).database_url, mapped.sql)
            return _shown(list(stored.rows.values())) if stored else "the database does not answer"

        yield _tried("freshness.sql", read)


def _shown(series: "list[ReportedSeries] | list[Row]") -> str:
    """Say how many series there are, and what is known of the first."""
    if not series:
        return "no series"
    one = series[0]
    age = "of unknown age" if one.age_s is None else f"{one.age_s / 3600:.2f} h old"
    return f"{len(series)} series, such as {one.symbol} {one.timeframe}, {age}, newest bar {one.newest or 'unknown'}"


def _backfill(target: Target) -> Iterator[AskedPart]:
    ends = endpoints(target)

    def source() -> str:
        return f"answers with HTTP {ask_source(ends.source_url, 10)} to a request without a key"

    def tables() -> str:
        with contextlib.closing(database.connect(ends.database_url, connect_timeout=5, statement_timeout="10s")) as connection:
            version = connection.info.server_version
            names = target.backfill.observe.tables if target.backfill and target.backfill.observe else ()
            connection.execute("RESET search_path")
            found = connection.execute(
                "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NULL", [list(names)]
            ).fetchall()
        absent = [name for (name,) in found]
        return f"PostgreSQL {version // 10000}" + (f", without the tables {', '.join(absent)}" if absent else "")

    yield _tried("backfill.source_url", source)
    yield _tried("backfill.database_url", tables)
