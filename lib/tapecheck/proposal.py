"""`tapecheck init URL`: proposes a target file for a system from its OpenAPI page and its database, as far as it could be verified.

Nothing is sent beyond plain reads.
"""

import contextlib
import datetime as dt
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
import yaml
from pydantic import ValidationError
from pydantic_core import from_json

from tapecheck import config, database, text
from tapecheck.errors import ConfigError, Problem, TapecheckError, first_line
from tapecheck.http import Answer, Client
from tapecheck.target import mapping
from tapecheck.target.file import RequestTemplate, Target
from tapecheck.target.loopback import check_database
from tapecheck.target.mapping import AnswerMapping

OPENAPI = ("/openapi.json", "/swagger.json", "/api/openapi.json", "/v1/openapi.json")
HEALTH = ("/health", "/healthz", "/api/health", "/status", "/ping")
# values for the names in a path
KNOWN: Mapping[str, str | int] = {"symbol": "AAPL", "ticker": "AAPL", "timeframe": "1d", "interval": "1d", "limit": 10}
PLAIN = re.compile(r"[A-Za-z_][\w.-]{0,39}", re.ASCII)  # a parameter's name
MOST_REQUESTS, MOST_TRIED = 12, 100  # that are proposed, and that are sent for it
NAMES = {  # of a field: how people call it, the most particular first
    "symbol": ("symbol", "ticker", "instrument"),
    "timeframe": ("timeframe", "interval", "resolution", "granularity"),
    "newest": (
        *("newest", "latest_bar", "latestbar", "last_bar", "lastbar", "latest"),
        *("last_timestamp", "max_time", "time", "timestamp", "ts", "t"),
    ),
    "refreshed_at": ("refreshed_at", "refreshedat", "last_update", "lastupdate", "updated_at", "updatedat", "last_refresh", "last_sync"),
    "age_s": ("age_s", "age_seconds", "ageseconds"),
    "state": ("freshness", "state", "health"),
}
COLUMNS = ("symbol", "timeframe", "newest")


@dataclass(kw_only=True)
class Proposal:
    """What is proposed, and what is left to do, a sentence each."""

    base_url: str
    requests: dict[str, str] = field(default_factory=dict)
    api: dict[str, Any] | None = None
    sql: str | None = None
    left: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the target file, with what is left to do as comments above it."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", self.base_url.partition("://")[2]).strip("-.")[:60] or "my-api"
        freshness = {key: value for key, value in (("api", self.api), ("sql", self.sql)) if value}
        document = {
            "name": name,
            "kind": "external",
            "base_url": self.base_url,
            "requests": self.requests,
            **({"freshness": freshness} if freshness else {}),
        }
        comments = [
            f"# Proposed by `tapecheck init {self.base_url}`; each request and mapping below was tried.",
            *(f"# - {text.line(one)}" for one in self.left),  # paths are the system's words: a line break would end the comment
        ]
        return "\n".join(comments) + "\n" + yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)


def propose(base_url: str, *, allow_remote: bool = False) -> Proposal:
    """Ask a system for what it offers, and return a target file's content.

    Args:
        base_url: where the API is.
        allow_remote: whether it may be another machine.

    Raises:
        ConfigError: the URL is wrong, or leads to another machine without `allow_remote`; nothing was sent.
        TargetError: nothing answers there.
    """
    url = base_url.rstrip("/")
    given = {"name": "init", "kind": "external", "base_url": url, "requests": {"root": "GET /"}, "allow_remote": allow_remote}
    target = config.validate(Target, given, file="command line")
    found = Proposal(base_url=url)
    with Client(target) as client:
        root = _get(client, "/")
        if root.failure is not None:
            raise root.failure
        _requests(client, found)
        _answers(client, found)
    _tables(target, found)
    found.left.append(
        "for `run load`, copy config/load.yaml to my-load.yaml, name these requests there as `request`, give each name in braces its"
        " values under `parameters`, and add: -p plan my-load.yaml"
    )
    found.left.append("name the processes that it runs as, to watch them under load: processes: {api: {port: …}}")
    found.left.append("say how its backfill is started, to measure it from outside: see docs/observe.md")
    return found


def _get(client: Client, path: str) -> Answer:
    return client.send(RequestTemplate(request=f"GET {path}"), [KNOWN])[0]


def _json(answer: Answer) -> Any:
    if answer.failure is not None or answer.status != 200:
        return None
    try:
        return from_json(answer.body)
    except ValueError:
        return None


# ---- requests ----


def _requests(client: Client, found: Proposal) -> None:
    """Propose the requests that read and answer with 200, from the OpenAPI page, else from what is usual."""
    pages = (_json(_get(client, path)) for path in OPENAPI)
    page = next((page for page in pages if isinstance(page, dict) and isinstance(page.get("paths"), dict)), None)
    paths, optional = (list(_paths(page)), _optional(page)) if page else (list(HEALTH), {})
    if page is None:
        found.left.append(f"it has no OpenAPI page ({', '.join(OPENAPI)}): add the requests that matter")
    unknown = []
    for template in paths[:MOST_TRIED]:
        if set(re.findall(r"{([^}]*)}", template)) - KNOWN.keys():
            unknown.append(template)
        elif len(found.requests) < MOST_REQUESTS and _get(client, template).status == 200:
            found.requests[_name(template, found.requests)] = f"GET {template}"
            if more := optional.get(template.partition("?")[0]):
                found.left.append(f"GET {template} may have more query parameters, written as name={{name}}: {more}")
    if unknown:
        found.left.append(f"add the requests whose names in braces only you know: {', '.join(unknown[:5])}")
    if not found.requests:
        found.requests["root"] = "GET /"
        found.left.append("no request that reads was answered with 200: correct the requests")


def _paths(page: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of a page that can be read and written in a target file, with the query parameters that they require."""
    for path, operations in page["paths"].items():
        read = operations.get("get") if isinstance(operations, dict) else None
        if isinstance(read, dict) and isinstance(path, str) and path.startswith("/"):
            listed = read.get("parameters")
            known = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
            wanted = [one.get("name") for one in known if one.get("in") == "query" and one.get("required")]
            query = "&".join(f"{name}={{{name}}}" for name in wanted if isinstance(name, str))
            with contextlib.suppress(ValidationError):
                yield RequestTemplate(request=f"GET {path}{f'?{query}' if query else ''}").path


def _optional(page: Mapping[str, Any]) -> dict[str, str]:
    """Return of each path the query parameters that it may have, with their defaults."""
    found = {}
    for path, operations in page["paths"].items():
        read = operations.get("get") if isinstance(operations, dict) else None
        listed = read.get("parameters") if isinstance(read, dict) else None
        given = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        may = [one for one in given if one.get("in") == "query" and not one.get("required") and PLAIN.fullmatch(str(one.get("name", "")))]
        if may:
            found[path] = ", ".join(f"{one['name']}{_default(one)}" for one in may[:MOST_REQUESTS])
    return found


def _default(parameter: Mapping[str, Any]) -> str:
    schema = parameter.get("schema")
    value = schema.get("default") if isinstance(schema, dict) else parameter.get("default")
    return f" (default {str(value)[:40]})" if isinstance(value, str | int | float) else ""


def _name(template: str, taken: Mapping[str, str]) -> str:
    """Return a name for a request: the last word of its path, with those before it where that is taken."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", re.sub(r"{[^}]*}|\?.*", "", template).lower()) if word] or ["root"]
    names = ("_".join(words[-count:]) for count in range(1, len(words) + 1))
    return next((name for name in names if name not in taken), f"{'_'.join(words)}_{len(taken)}")


# ---- how old its data is ----


def _answers(client: Client, found: Proposal) -> None:
    """Propose a mapping of the first answer that lists series, once it was read by it."""
    for name, request in found.requests.items():
        path = request.removeprefix("GET ")
        answer = _get(client, path) if "{" not in path else None
        for series, row in _lists(_json(answer) if answer else None):
            if (given := _mapping(name, series, row)) and answer and _reads(given, answer):
                found.api = given
                if given["fields"].get("timeframe", "").startswith("'"):
                    found.left.append("its answer names no timeframe: correct the constant in freshness.api.fields.timeframe")
                return
    found.left.append("no answer was seen that lists symbols with a time: map one by hand under freshness.api (docs/recovery.md)")


def _lists(document: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each list of objects in an answer as a JMESPath expression, with its first object; objects by symbol are not looked for."""
    if isinstance(document, list) and document and isinstance(document[0], dict):
        yield f"{path}[]" if path else "@", document[0]
    elif isinstance(document, dict):
        for key, inner in document.items():
            if re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
                yield from _lists(inner, f"{path}.{key}" if path else key)


def _mapping(name: str, series: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
    lower = {key.lower(): key for key in row}
    fields = {one: lower[word] for one, words in NAMES.items() if (word := next((word for word in words if word in lower), None))}
    if "symbol" not in fields or not fields.keys() & {"newest", "refreshed_at", "age_s"}:
        return None
    fields.pop("state", None)  # whose words only a person can translate
    return {"request": name, "series": series, "fields": {"timeframe": "'1d'"} | fields}


def _reads(given: dict[str, Any], answer: Answer) -> bool:
    try:
        mapping.status(_json(answer), AnswerMapping.model_validate(given), dt.datetime.now(dt.UTC))
    except (TapecheckError, ValidationError):  # the latter of names that JMESPath knows only in quotes
        return False
    return True


# ---- its tables ----

_TABLES = """
SELECT format('%I.%I', table_schema, table_name), json_object_agg(lower(column_name), quote_ident(column_name))
FROM information_schema.columns WHERE table_schema NOT IN ('pg_catalog', 'information_schema') GROUP BY 1 ORDER BY 1"""


def _tables(target: Target, found: Proposal) -> None:
    """Propose a statement for the first table that has symbols and times, once it gave rows; where DATABASE_URL names a database."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        found.left.append("set DATABASE_URL and run this again, or write freshness.sql by hand, to hold the API against its database")
        return
    try:
        check_database(target, url)
        with database.connect(url, statement_timeout="10s", connect_timeout=5) as connection:
            connection.read_only = True
            for table, columns in connection.execute(_TABLES).fetchall():
                names = columns if isinstance(columns, dict) else json.loads(columns)
                if (sql := _statement(table, names)) and connection.execute(sql.encode()).fetchone():
                    found.sql = sql
                    return
    except psycopg.Error as error:
        found.left.append(f"the database of DATABASE_URL could not be asked ({first_line(error)})")
        return
    found.left.append("no table was seen with symbols and times: write freshness.sql by hand")


def _statement(table: str, columns: Mapping[str, str]) -> str | None:
    chosen = {one: columns[word] for one in COLUMNS if (word := next((word for word in NAMES[one] if word in columns), None))}
    if not {"symbol", "newest"} <= chosen.keys():
        return None
    timeframe = chosen.get("timeframe", "'1d'")
    grouped = ", ".join(chosen[one] for one in ("symbol", "timeframe") if one in chosen)
    return (
        f"SELECT {chosen['symbol']} AS symbol, {timeframe} AS timeframe, max({chosen['newest']}) AS newest FROM {table} GROUP BY {grouped}"  # noqa: S608 - names as the server quotes them
    )


def write(base_url: str, file: str | None, *, allow_remote: bool = False) -> str:
    """Return the text of a proposal, written to a new file where one is named.

    Raises:
        ConfigError: the file exists.
    """
    proposed = propose(base_url, allow_remote=allow_remote).text()
    if file:
        path = config.expanded(file)
        try:
            with path.open("x", encoding="utf-8") as out:
                out.write(proposed)
        except FileExistsError:
            raise ConfigError([Problem(file=file, key="--write", got="a file that exists", allowed="a new one")]) from None
    return proposed
