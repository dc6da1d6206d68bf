"""What is this machine: without `allow_remote` nothing connects beyond it. What decides is the address that is connected to, not a name.

A name other than `localhost` is never looked up here: the question itself would leave the machine.
"""

import contextlib
import functools
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any
from urllib.parse import urlsplit

from tapecheck.errors import ConfigError, Problem
from tapecheck.target.file import Target

LOCALHOST = ("127.0.0.1", "::1")


def addresses(host: str) -> tuple[str, ...]:
    """Return the addresses that a host stands for without a look-up, each as the system writes it; none for a name."""
    if host.lower().removesuffix(".") == "localhost":
        return LOCALHOST
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST) if host else []
    except (OSError, ValueError):  # UnicodeError is one of the latter
        return ()
    return tuple(str(entry[4][0]) for entry in found)


def is_loopback(host: str) -> bool:
    """Tell whether a connection to a host, `localhost` or a numeric address in any notation, stays on this machine."""
    found = [ipaddress.ip_address(address) for address in addresses(host)]
    return bool(found) and all((getattr(address, "ipv4_mapped", None) or address).is_loopback for address in found)


def host_of(url: str) -> str:
    """Return a URL's host."""
    return urlsplit(url).hostname or ""


def is_local_database(url: str) -> bool:
    """Tell whether every server that a PostgreSQL URL may lead to is on this machine, be it by a socket.

    Raises:
        psycopg.ProgrammingError: the URL cannot be read; its message may hold the URL.
    """
    from psycopg.conninfo import conninfo_to_dict  # 60 ms that only who has a database pays

    parts = conninfo_to_dict(url)
    if parts.get("service") or os.environ.get("PGSERVICE"):
        return False  # a file, of which libpq takes whatever is not in the URL
    hosts, numbers = (str(parts.get(name) or os.environ.get(f"PG{name.upper()}", "")) for name in ("host", "hostaddr"))
    places = [number or host for host, number in zip_longest(hosts.split(","), numbers.split(","), fillvalue="")]
    return all(place == "" or place.startswith(("/", "@")) or is_loopback(place) for place in places)


# ---- what a target allows ----


def beyond(target: Target, what: str) -> Problem:
    """Return the problem of a target of which something leads beyond this machine although it does not say that it may."""
    allowed = "a loopback address; or allow_remote: true, if you may send requests there"
    return Problem(file=f"target {target.name}", key="allow_remote", got=f"false, while {what}", allowed=allowed)


def check_database(target: Target, url: str) -> None:
    """Refuse a database beyond this machine that the target does not allow to be asked; no message holds its URL."""
    from psycopg import ProgrammingError

    try:
        is_here = is_local_database(url)
    except ProgrammingError:
        allowed = "postgresql://user@host:5432/database"
        problem = Problem(file=f"target {target.name}", key="database_url", got="a URL that cannot be read", allowed=allowed)
        raise ConfigError([problem]) from None
    if not is_here and not target.allow_remote:
        raise ConfigError([beyond(target, "its database may be on another machine")])


# ---- connections ----


_LOOKING_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_guards: list[object] = []  # those who want nothing of this process to leave the machine
_asking = threading.local()  # `is_loopback` looks at numbers with `getaddrinfo`, which is asked about itself


@contextlib.contextmanager
def only(is_wanted: bool = True) -> Iterator[None]:
    """Let Python code of this process, whatever it is, connect to nothing beyond this machine and use no proxy; a refusal is an OSError.

    It is for code that is not ours, such as a drill's: ours asks before it connects.
    """
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    if is_wanted:
        _guard()
        _guards.append(before)
    os.environ.update(dict.fromkeys(before, "*" if is_wanted else ",".join((*LOCALHOST, "localhost", *filter(None, before.values())))))
    try:
        yield
    finally:
        if is_wanted:
            _guards.remove(before)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@functools.cache
def _guard() -> None:
    """Have the interpreter ask; once, since it never stops to."""
    sys.addaudithook(_check)


def _check(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guards or event not in ("socket.connect", "socket.sendto", "socket.sendmsg", *_LOOKING_UP):
        return
    place = arguments[0] if event in _LOOKING_UP else arguments[1][0] if isinstance(arguments[1], tuple) else None
    host = place.decode("ascii", "replace") if isinstance(place, bytes) else place
    if not isinstance(host, str) or getattr(_asking, "now", False):
        return
    _asking.now = True
    try:
        is_here = is_loopback(host)
    finally:
        _asking.now = False
    if not is_here:
        raise PermissionError(f"{host} is beyond this machine, and the target file does not say allow_remote: true")
