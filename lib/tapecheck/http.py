"""Asks a target its named requests, a bounded number at once, from ordinary code. It judges no answer."""

import contextlib
import datetime as dt
import logging
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar
from urllib.parse import urlsplit

import anyio
import certifi
import httpx
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel, ValidationError

from tapecheck import config
from tapecheck.errors import ConfigError, Problem, TargetDown, TargetError
from tapecheck.target import templates
from tapecheck.target.file import RequestTemplate, Target
from tapecheck.target.opening import beyond, is_loopback
from tapecheck.target.templates import Value

AT_ONCE = 8
TIMEOUT_S = 10.0  # for one answer, from the connection to its last byte
BODY_LIMIT = 32 * 2**20
SHOWN = 80  # characters of an unexpected body

SaidT = TypeVar("SaidT", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one request: a whole answer, or a `failure`; when, on the monotonic clock and in UTC."""

    what: str
    sent_s: float
    done_s: float
    at: dt.datetime
    status: int = 0
    body: bytes = b""
    failure: TargetError | None = None

    def said(self, kind: type[SaidT]) -> SaidT | None:
        """Return the body as what it should be; None where it is something else."""
        try:
            return kind.model_validate_json(self.body)
        except ValidationError:
            return None


class Client:
    """A target's connections while the context lasts; safe in a notebook, whose kernel runs an event loop of its own.

    Raises:
        ConfigError: a header cannot be sent, a secret is not set, `ca_file` cannot be read, or the target lies beyond this machine
            without `allow_remote`; nothing was sent.
    """

    def __init__(self, target: Target, *, timeout_s: float = TIMEOUT_S) -> None:
        assert target.base_url is not None, "an opened target has a URL"
        logging.getLogger("httpx").setLevel(logging.WARNING)  # its INFO line holds the whole URL
        self._target, self._base_url, self._timeout_s = target, target.base_url.rstrip("/"), timeout_s
        problems: list[Problem] = []
        self._headers = templates.headers(target, problems)
        self._is_here = is_loopback(urlsplit(target.base_url).hostname or "")
        if not self._is_here and not target.allow_remote:
            problems.append(beyond(target, f"{target.base_url} may be on another machine"))
        if problems:
            raise ConfigError(problems)
        self._verify = tls(target)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._http = stack.enter_context(self._portal.wrap_async_context_manager(self._opened()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *caught: object) -> None:
        self._stack.__exit__(*caught)  # type: ignore[arg-type]

    def knows(self, name: str) -> bool:
        """Tell whether the target names such a request."""
        return name in self._target.requests

    def check(self, name: str, values: Mapping[str, Value]) -> None:
        """Refuse a request that cannot be made of these values; nothing is sent.

        Raises:
            ConfigError: the target names no such request, or it needs other values.
        """
        self._template(name, values)

    def ask(self, name: str, values: Mapping[str, Value] | None = None) -> Answer:
        """Send a named request with its template filled in.

        Raises:
            ConfigError: as `check`.
        """
        return self.ask_all(name, [values or {}])[0]

    def ask_all(self, name: str, each: Sequence[Mapping[str, Value]]) -> list[Answer]:
        """Send a named request once for each set of values, at most `AT_ONCE` at a time; the answers are in the same order.

        Raises:
            ConfigError: as `check`.
        """
        return self._portal.call(self._all, self._template(name, each[0]), each) if each else []

    def expected(self, name: str, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return what the target file expects of the top-level keys of an answer."""
        return templates.expected_json(self._target.requests[name], values)

    def read(self, name: str, kind: type[SaidT]) -> tuple[Answer, SaidT]:
        """Send a named request, and return its answer and what it says.

        Raises:
            TargetDown: there is no answer, or one of a target that does not work.
            TargetError: the answer has another form.
        """
        answer = self.ask(name)
        if answer.failure is not None:
            raise answer.failure
        if answer.status != 200:
            raise self._refused(answer)
        try:
            return answer, kind.model_validate_json(answer.body)
        except ValidationError as error:
            raise self._of_another_form(name, answer, error) from None

    def _template(self, name: str, values: Mapping[str, Value]) -> RequestTemplate:
        at = f"target {self._target.name}"
        template = self._target.requests.get(name)
        if template is None:
            raise ConfigError([Problem(file=at, key=f"requests.{name}", got="nothing", allowed="a request, such as: GET /api/v1/" + name)])
        unknown = [key for key in templates.placeholders(template) if key not in values]
        if unknown:
            allowed = f"no other names than {', '.join(values) or 'none'}"
            raise ConfigError([Problem(file=at, key=f"requests.{name}", got="{" + unknown[0] + "}", allowed=allowed)])
        return template

    def _opened(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(headers=self._headers, verify=self._verify, trust_env=not self._is_here, timeout=None)  # noqa: S113 - see _send

    async def _all(self, template: RequestTemplate, each: Sequence[Mapping[str, Value]]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        limiter = anyio.CapacityLimiter(AT_ONCE)

        async def one(number: int, values: Mapping[str, Value]) -> None:
            async with limiter:
                answers[number] = await self._one(template, values)

        async with anyio.create_task_group() as group:
            for number, values in enumerate(each):
                group.start_soon(one, number, values)
        return [answers[number] for number in range(len(each))]

    async def _one(self, template: RequestTemplate, values: Mapping[str, Value]) -> Answer:
        body = templates.body(template, values)
        request = self._http.build_request(
            template.method,
            self._base_url + templates.path(template, values),
            content=body or None,
            headers=({"Content-Type": "application/json"} if body else {}) | template.headers,
        )
        what, sent_s = templates.redacted(f"{template.method} {request.url}", self._target), time.monotonic()
        status, content, failure = 0, b"", None
        try:
            with anyio.fail_after(self._timeout_s):  # in all: a limit on each read would let an answer drip for ever
                status, content = await self._send(request)
        except (httpx.HTTPError, TimeoutError, _TooLarge) as error:
            failure = self._failure(what, error)
        return Answer(
            what=what, sent_s=sent_s, done_s=time.monotonic(), at=dt.datetime.now(dt.UTC), status=status, body=content, failure=failure
        )

    async def _send(self, request: httpx.Request) -> tuple[int, bytes]:
        parts, size = [], 0
        async with contextlib.aclosing(await self._http.send(request, stream=True)) as answer:
            async for part in answer.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > BODY_LIMIT:
                    raise _TooLarge(f"the body is larger than {BODY_LIMIT} bytes")
        return answer.status_code, b"".join(parts)

    # ---- what is said of it ----

    def _failure(self, what: str, error: Exception) -> TargetError:
        if isinstance(error, TimeoutError):
            return TargetDown(f"{what}: no whole answer within {self._timeout_s:g} s: the target is too slow, or hangs")
        text = templates.redacted(str(error) or type(error).__name__, self._target)
        if isinstance(error, httpx.ConnectError):
            hint = "the certificate is refused: name its authority with ca_file" if "CERTIFICATE_VERIFY" in text else "start the target"
            return TargetDown(f"{what}: nothing answers ({text}): {hint}, or correct base_url")
        if isinstance(error, httpx.NetworkError) or "disconnected" in text or "peer closed" in text:
            return TargetDown(f"{what}: the connection was closed before the answer was whole ({text})")
        return TargetError(f"{what}: the answer cannot be read ({text}): the port may be of something else")

    def _refused(self, answer: Answer) -> TargetError:
        says = f"{answer.what}: answered {answer.status}, expected 200"
        if answer.status in (401, 403):
            names = ", ".join(self._target.headers) or "none; name the key under `headers`"
            return TargetError(f"{says}: the key is missing or wrong; headers sent: {names}")
        if answer.status == 404:
            why = self._shown(answer.body) if answer.body.strip() else "no such path"
            return TargetError(f"{says}: {why}; correct the request in the target file, or base_url")
        if answer.status == 429 or answer.status >= 500:
            return TargetDown(f"{says}: the target does not work: {self._shown(answer.body)}")
        return TargetError(f"{says}: {self._shown(answer.body)}")

    def _of_another_form(self, name: str, answer: Answer, error: ValidationError) -> TargetError:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"])) or "the body"
        why = f"{at}: {first['msg']}; it begins {self._shown(answer.body)}"
        return TargetError(f"{answer.what}: no {name} answer as it is expected ({why}): correct requests.{name}, or base_url")

    def _shown(self, body: bytes) -> str:
        return repr(templates.redacted(body.decode("utf-8", "replace"), self._target)[:SHOWN])


class _TooLarge(Exception):
    """A body that is not read to its end."""


def tls(target: Target) -> ssl.SSLContext | bool:
    """Return what a certificate is checked by; False where nothing but plain HTTP to this machine is spoken."""
    url = urlsplit(target.base_url or "")
    if url.scheme == "http" and is_loopback(url.hostname or ""):
        return False
    try:
        return ssl.create_default_context(cafile=str(config.find(target.ca_file)) if target.ca_file else certifi.where())
    except (OSError, ssl.SSLError) as error:
        got = f"{target.ca_file!r}: {error}"
        raise ConfigError([Problem(file=f"target {target.name}", key="ca_file", got=got, allowed="a file of PEM certificates")]) from None
