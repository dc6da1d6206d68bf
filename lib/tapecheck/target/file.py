"""What a target file says: requests, secrets, processes to watch, where history comes from, and what is allowed. It reaches no target."""

import contextlib
import datetime as dt
import os
import re
import shlex
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from tapecheck import text
from tapecheck.config import Model
from tapecheck.errors import ConfigError, Problem
from tapecheck.target.mapping import Freshness, StoredBars, expression


def _matching(pattern: str, wanted: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(wanted)
        return value

    return check


NAMED = "the name of an environment variable, as in {env: NAME}"  # in place of a secret

EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Secret(Model):
    """Where a secret is: in an environment variable, of several the first that is set, or in a file; it is read only when it is sent."""

    env: Annotated[tuple[EnvironmentName, ...], BeforeValidator(lambda names: (names,) if isinstance(names, str) else names)] = ()
    file: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_itself(cls, data: Any) -> Any:
        if not isinstance(data, Mapping | cls):
            raise PydanticCustomError("secret", NAMED)
        return data

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.env) == bool(self.file):
            raise ValueError("exactly one of env and file")
        text.watch(self.peek)
        return self

    @property
    def place(self) -> str:
        """Where it is read from."""
        return self.file or " or ".join(self.env)

    @property
    def is_set(self) -> bool:
        """Whether one of the variables has a value; a file is asked only when it is read."""
        return bool(self.file) or any(map(os.environ.get, self.env))

    @property
    def remedy(self) -> str:
        """What to do when there is none."""
        return f"write it to {self.file}" if self.file else f"export {' or '.join(f'{name}=...' for name in self.env)}"

    def reveal(self) -> str:
        """Return the secret. Raises ConfigError: no variable is set, or the file cannot be read or holds nothing."""
        try:
            value = Path(self.file).read_text(encoding="utf-8") if self.file else next(filter(None, map(os.environ.get, self.env)), "")
        except (OSError, ValueError) as error:
            got = getattr(error, "strerror", None) or type(error).__name__
            raise ConfigError([Problem(file=self.place, key="(file)", got=got, allowed="a readable file that holds the secret")]) from None
        if not value.strip():
            file = self.file or "environment"
            raise ConfigError([Problem(file=file, key=self.place, got="nothing", allowed=f"the secret, as in: {self.remedy}")])
        text.learn(value)
        return value.strip() if self.file else value

    def peek(self) -> str | None:
        """Return the secret, if it is there, to blank it out; of a pipe, which can be read once, only `reveal` reads."""
        with contextlib.suppress(OSError, ValueError):
            if not self.file:
                return next(filter(None, map(os.environ.get, self.env)), None)
            if stat.S_ISREG(Path(self.file).stat().st_mode):
                return Path(self.file).read_text(encoding="utf-8").strip()
        return None


def _no_secrets(headers: dict[str, Any]) -> dict[str, Any]:
    """Refuse a header that is named like a secret and whose value stands in the file."""
    written = [name for name, value in headers.items() if isinstance(value, str) and text.NAMES.search(name)]
    if written:
        error = PydanticCustomError("secret", NAMED)
        raise ValidationError.from_exception_data("headers", [InitErrorDetails(type=error, loc=(name,), input=None) for name in written])
    return headers


def _no_secret_in_query(request: str) -> str:
    for name, value in parse_qsl(request.partition("?")[2]):
        if _SURELY.search(name) and "{" not in value:
            raise PydanticCustomError("secret", f"a header in place of {name}, as in headers: {{X-API-Key: {{env: NAME}}}}")
    return request


_SURELY = re.compile(r"(api|access)[-_]?key|token|secret|signature|passw|^pwd$|^sig$|jwt|hmac|credential|^auth", re.IGNORECASE)


class ProcessSelector(Model):
    """Which local process is meant: by its pid, the port that it listens on, or its command.

    Args:
        command: the program, its title, or the script or module that an interpreter runs, as a whole or by its file name; then arguments.
        all: whether a drill may break all of several processes that it names; otherwise it refuses to.
    """

    pid: int | None = Field(default=None, gt=0)
    port: int | None = Field(default=None, gt=0, lt=65536)
    command: str | None = Field(default=None, pattern=r"\S")
    all: bool = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(x is not None for x in (self.pid, self.port, self.command)) != 1:
            raise ValueError("exactly one of pid, port, command")
        return self


class Expectation(Model):
    """What a right answer looks like; `json` maps a top-level key to its expected value (templates allowed)."""

    status: int = Field(default=200, ge=100, le=599)
    json_: dict[str, str | int | float | bool] = Field(default={}, alias="json")


class RequestTemplate(Model):
    """A named request, `METHOD /path?query`, whose `{names}` a scenario's parameters fill.

    Its `headers`, in which no secret stands, replace those of the target that have the same name.
    """

    request: Annotated[
        str,
        Field(max_length=8000),
        AfterValidator(_matching(r"(GET|HEAD|POST) /[^\s\x00-\x1f\x7f]*", "GET, HEAD or POST and a path, such as: GET /health")),
        AfterValidator(_no_secret_in_query),
    ]
    body: str | None = None
    headers: Annotated[dict[str, str], AfterValidator(_no_secrets)] = Field(default={})
    expect: Expectation = Expectation()

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"request": data} if isinstance(data, str) else data

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.request.split(" ", 1)[0]

    @property
    def path(self) -> str:
        """The path and query, with their `{names}`."""
        return self.request.split(" ", 1)[1]


def _url(written: str) -> str:
    try:
        parts = urlsplit(written)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or re.fullmatch(r"https?://[^\s?#@]+", written) is None:
        raise ValueError("http:// or https://, a host and maybe a port and path, no user or query, such as: http://127.0.0.1:8000")
    return written


Url = Annotated[str, AfterValidator(_url)]


def _database_url(written: str) -> str:
    try:
        parts = urlsplit(written)
        is_good = parts.scheme in ("postgresql", "postgres") and parts.password is None and "password=" not in parts.query
    except ValueError:
        is_good = False
    wanted = "{env: NAME}, or postgresql://user@host/database without a password"
    if not is_good and ("@" in written or "password" in written):
        raise PydanticCustomError("secret", wanted)
    if not is_good:
        raise ValueError(wanted)
    return written


def _kind(value: object) -> str:
    return "url" if isinstance(value, str) else "secret"  # so that a mistake is one of either, not one of both


def _argument(value: Any) -> Any:
    """Return an argument of a command as text: YAML reads 30 and 2026-10-01 as a number and a date."""
    return str(value) if isinstance(value, int | float | dt.date) and not isinstance(value, bool | dt.datetime) else value


Argument = Annotated[str, BeforeValidator(_argument), Field(min_length=1)]  # of a command


class BackfillStart(Model):
    """How a target's own backfill is started: by a command with its arguments, run in a folder, or by one of the target's requests."""

    command: tuple[Argument, ...] = ()
    folder: str | None = None
    request: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.command) == bool(self.request):
            raise ValueError("exactly one of command and request")
        return self


class BackfillEnd(Model):
    """One of the target's requests, and the JMESPath expression that is true of its answer when the backfill has ended."""

    request: str
    when: Annotated[str, AfterValidator(expression)]


class DatabaseSessions(Model):
    """Which sessions of the database are the backfill's: those that have all that is given here."""

    application_name: str | None = None
    user: str | None = None
    database: str | None = None

    @model_validator(mode="after")
    def _any(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("at least one of application_name, user, database")
        return self


Table = Annotated[str, AfterValidator(_matching(r"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)?", "a table, as in: market_data or prices.daily"))]


class ObservedBackfill(Model):
    """A target's own backfill, and what is needed to watch it from outside.

    Args:
        start, done: how it is started; one that a request starts needs to be asked whether it is done.
        vendor_url_env: the variable in which the command finds the vendor's address: the recording proxy's is put there.
        proxy_port: of the recording proxy; 0 is any free one. A service that reads the vendor's address from a file needs a fixed one.
        rewrite_next_url: whether the proxy puts its own address in place of the vendor's into `next_url`, for clients that follow it
            as it is; nothing else of an answer is ever changed.
        database: which sessions of the database are its own.
        tables: those that it fills, whose rows are counted before and after.
    """

    start: BackfillStart
    done: BackfillEnd | None = None
    vendor_url_env: EnvironmentName | None = None
    proxy_port: int = Field(default=0, ge=0, lt=65536)
    rewrite_next_url: bool = False
    database: DatabaseSessions | None = None
    tables: tuple[Table, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.start.request and not self.done:
            raise ValueError("done: {request, when}, since a request starts it")
        if not (self.vendor_url_env or self.proxy_port):
            raise ValueError("vendor_url_env, or a proxy_port that the service is told as the vendor's address")
        return self


class BackfillTarget(Model):
    """Where history comes from, and the database that it goes to; a URL without a password may be written as it is."""

    source_url: Url
    api_key: Secret = Secret(env=("MASSIVE_API_KEY", "POLYGON_API_KEY"))
    database_url: Annotated[
        Annotated[Secret, Tag("secret")] | Annotated[str, AfterValidator(_database_url), Tag("url")], Discriminator(_kind)
    ] = Secret(env=("DATABASE_URL",))
    observe: ObservedBackfill | None = None


class RestorableDatabase(Model):
    """How the database under `backfill` is backed up and restored.

    In the arguments {backup} is the file or folder of a backup, {database} the database to back up or to restore into, {snapshot} one for
    pg_dump. The commands find server, user and password in libpq's environment (PGHOST, PGPASSWORD, …), never among their arguments.

    Args:
        expendable: whether it may be dropped, and all that came since its backup with it.
        backups: the folder where they lie, each a file or a folder.
        backup: makes one; without it drills can only use what is there.
        restore: fills an empty database from one.
    """

    expendable: bool = False
    backups: Annotated[str, Field(min_length=1)]
    backup: tuple[Argument, ...] = ()
    restore: Annotated[tuple[Argument, ...], Field(min_length=1)]


class Target(Model):
    """The system under test, and what may be done to it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    kind: Literal["sandbox", "external"]
    base_url: Url | None = None
    requests: dict[str, RequestTemplate] = Field(min_length=1)
    headers: Annotated[dict[str, str | Secret], AfterValidator(_no_secrets)] = Field(default={})
    processes: dict[str, ProcessSelector] = Field(default={})
    freshness: Freshness | None = None
    bars: StoredBars | None = None
    backfill: BackfillTarget | None = None
    database: RestorableDatabase | None = None
    ca_file: str | None = None
    allow_remote: bool = False
    allow_drills: bool = False

    @property
    def commands(self) -> list[str]:
        """The commands that drills of the database run."""
        every = (self.database.backup, self.database.restore) if self.database else ()
        return [shlex.join(command) for command in every if command]

    @model_validator(mode="after")
    def _external_has_url(self) -> Self:
        if self.kind == "external" and self.base_url is None:
            raise ValueError("an external target needs base_url")
        return self
