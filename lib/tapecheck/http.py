"""Asks over HTTP whatever is not timed: a target's named requests, or any path of a server. It judges no answer."""

import contextlib
import datetime as dt
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import anyio
import certifi
import httpx
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel, ValidationError

from tapecheck import config
from tapecheck.errors import ConfigError, Problem, TargetDown, TargetError, shown
from tapecheck.target import templates
from tapecheck.target.file import RequestTemplate, Secret, Target
from tapecheck.target.loopback import beyond, host_of, is_loopback
from tapecheck.target.templates import Value
from tapecheck.target.transport import FAILURES, LONG_HEAD, TooLarge, client_options, exchange

logging.getLogger("httpx").setLevel(logging.WARNING)  # its INFO lines hold whole URLs

AT_ONCE = 8
TIMEOUT_S = 10.0  # for one answer, from the connection to its last byte
QUOTED = 200  # characters of an unexpected body
IN_FILE = "the request or its parameters in the target file"

ModelT = TypeVar("ModelT", bound=BaseModel)


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

    def parsed(self, kind: type[ModelT]) -> ModelT | None:
        """Return the body of a 200 as what it should be; None where it is something else."""
        try:
            return kind.model_validate_json(self.body) if self.status == 200 else None
        except ValidationError:
            return None


class Client:
    """A target's connections while the context lasts; safe in a notebook, whose kernel runs an event loop of its own.

    What is wrong with the target file, or leads beyond this machine without `allow_remote`, is a ConfigError before anything is sent.
    """

    def __init__(self, target: Target, *, timeout_s: float = TIMEOUT_S) -> None:
        assert target.base_url is not None, "an opened target has a URL"
        self._target, self._base_url, self._timeout_s = target, target.base_url.rstrip("/"), timeout_s
        problems: list[Problem] = []
        self._headers = templates.headers(target, problems)
        if not target.allow_remote and not is_loopback(host_of(target.base_url)):
            problems.append(beyond(target, f"{target.base_url} may be on another machine"))
        if problems:
            raise ConfigError(problems)
        self._options = client_options(target.base_url, tls(target))
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        client = httpx.AsyncClient(headers=self._headers, timeout=None, **self._options)  # noqa: S113 - see exchange
        with contextlib.ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._http = stack.enter_context(self._portal.wrap_async_context_manager(client))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *caught: object) -> None:
        self._stack.__exit__(*caught)  # type: ignore[arg-type]

    def send(self, template: RequestTemplate, each: Sequence[Mapping[str, Value]] = ({},)) -> list[Answer]:
        """Send a template once for each set of values, at most `AT_ONCE` at a time; the answers are in the same order."""
        return self._portal.call(self._all, template, each)

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
        url, more = self._base_url + templates.path(template, values), {"Content-Type": "application/json"} if body else {}
        request = self._http.build_request(template.method, url, content=body or None, headers=more | template.headers)
        what, sent_s = f"{template.method} {request.url}", time.monotonic()
        status, content, problem = 0, b"", None
        try:
            answer, content = await exchange(self._http, request, self._timeout_s)
            status = answer.status_code
        except FAILURES as error:
            problem = failure(what, error, timeout_s=self._timeout_s)
        return Answer(
            what=what, sent_s=sent_s, done_s=time.monotonic(), at=dt.datetime.now(dt.UTC), status=status, body=content, failure=problem
        )

    @property
    def target(self) -> Target:
        """The target that is asked."""
        return self._target

    def knows(self, name: str) -> bool:
        """Tell whether the target names such a request."""
        return name in self._target.requests

    def check(self, name: str, values: Mapping[str, Value]) -> RequestTemplate:
        """Return a named request; one that the target does not name, or that needs other values, is a ConfigError."""
        at = f"target {self._target.name}"
        template = self._target.requests.get(name)
        if template is None:
            raise ConfigError([Problem(file=at, key=f"requests.{name}", got="nothing", allowed="a request, such as: GET /api/v1/" + name)])
        unknown = [key for key in templates.placeholders(template) if key not in values]
        if unknown:
            allowed = f"no other names than {', '.join(values) or 'none'}"
            raise ConfigError([Problem(file=at, key=f"requests.{name}", got="{" + unknown[0] + "}", allowed=allowed)])
        return template

    def ask(self, name: str, values: Mapping[str, Value] | None = None) -> Answer:
        """Send a named request with its template filled in; refuse it as `check` does."""
        return self.ask_all(name, [values or {}])[0]

    def ask_all(self, name: str, each: Sequence[Mapping[str, Value]]) -> list[Answer]:
        """Send a named request once for each set of values; refuse it as `check` does."""
        return self.send(self.check(name, each[0]), each) if each else []

    def expected(self, name: str, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return what the target file expects of the top-level keys of an answer."""
        return templates.expected_json(self._target.requests[name], values)

    def read(self, name: str, kind: type[ModelT]) -> tuple[Answer, ModelT]:
        """Send a named request, and return its answer and what it says; no answer, or one of another form, is a TargetError."""
        answer = self.ask(name)
        if answer.failure is not None:
            raise answer.failure
        if answer.status != 200:
            raise refused(answer.what, answer.status, answer.body, self._target)
        try:
            return answer, kind.model_validate_json(answer.body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            at = ".".join(map(str, first["loc"])) or "the body"
            why = f"{at}: {first['msg']}; it begins {shown(answer.body, QUOTED)}"
            raise TargetError(f"{answer.what}: no {name} answer as expected ({why}): correct requests.{name}, or base_url") from None


# ---- what an exchange without an answer means ----


def failure(what: str, error: Exception, *, timeout_s: float, hint: Callable[[], str] = str) -> TargetError:
    """Return what an exchange that ended without an answer says of the target.

    Args:
        what: was asked.
        hint: returns what else is known of the port, or nothing; called only where it may explain the error.
    """
    text = str(error) or type(error).__name__
    cause = next((one for one in _causes(error) if isinstance(one, ssl.SSLError)), None)
    is_closed = isinstance(error, httpx.NetworkError) or "disconnected" in text or "peer closed" in text
    if isinstance(error, TooLarge) or "too long" in text:
        return TargetError(f"{what}: {LONG_HEAD if 'too long' in text else text}")
    if isinstance(error, TimeoutError):
        return TargetDown(f"{what}: no whole answer within {timeout_s:g} s: the target is too slow, or hangs")
    if isinstance(error, httpx.DecodingError):
        return TargetError(f"{what}: the body cannot be decoded as its Content-Encoding says ({text})")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TargetError(f"{what}: TLS: the certificate is refused ({cause.verify_message}): name its authority with ca_file")
    if cause is not None:
        return TargetError(f"{what}: TLS: {(cause.reason or str(cause)).replace('_', ' ').lower()}: is this port https?{hint()}")
    if isinstance(error, httpx.ConnectError):
        return TargetDown(f"{what}: nothing answers ({text}): start the target, or correct base_url{hint()}")
    if is_closed:
        why = f"the connection was closed before the answer was whole, or reset ({text})"
        return down(f"{what}: {why}: the target failed, or is something else", hint())
    if "_SWITCH_" in text:
        return TargetError(f"{what}: answered 101 and switches to another protocol, which cannot be measured: correct the request")
    if "status line" in text or not isinstance(error, httpx.RemoteProtocolError):
        return TargetError(f"{what}: the answer is not HTTP ({text}): the port is of something else{hint()}")
    return TargetError(f"{what}: the answer breaks the rules of HTTP ({text}): correct what the target, or a proxy before it, sends")


def down(problem: str, hint: str = "") -> TargetError:
    """Return that the target does not answer; where it speaks the other scheme, as a hint says, only the configuration can help."""
    return TargetError(problem + hint) if hint else TargetDown(problem)


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and here not in chain:
        chain.append(here)
        here = here.__cause__ or here.__context__
    return chain


def refused(
    what: str, status: int, body: bytes, target: Target, *, expected: int = 200, asked: str = IN_FILE, hint: str = ""
) -> TargetError:
    """Return what an answer with another status than the expected one says of a target.

    Args:
        what: was asked.
        asked: where what was asked for stands, which a 404 refuses.
        hint: what to do about any other status.
    """
    says, said = f"{what}: answered {status}, expected {expected}", shown(body, QUOTED)
    if status in (401, 403):
        names = [f"{name} (from {value.place})" if isinstance(value, Secret) else name for name, value in target.headers.items()]
        return TargetError(f"{says}: the key is missing or wrong; headers sent: {', '.join(names) or 'none; name the key under `headers`'}")
    if status == 404:
        return TargetError(f"{says}: {said if body.strip() else 'no such path'}; correct {asked}, or base_url")
    if status == 429 or status >= 500:
        return TargetDown(f"{says}: the target does not work, even without load: {said}")
    return TargetError(f"{says}: {hint or said}")


def tls(target: Target) -> ssl.SSLContext | bool:
    """Return what a certificate is checked by; False where nothing but plain HTTP to this machine is spoken."""
    url = target.base_url or ""
    if url.startswith("http://") and is_loopback(host_of(url)):
        return False
    try:
        return ssl.create_default_context(cafile=str(config.find(target.ca_file)) if target.ca_file else certifi.where())
    except (OSError, ssl.SSLError) as error:
        got = f"{target.ca_file!r}: {error}"
        raise ConfigError([Problem(file=f"target {target.name}", key="ca_file", got=got, allowed="a file of PEM certificates")]) from None
