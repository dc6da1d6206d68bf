"""Tells this machine from others, to which nothing is sent unless a target allows it. It looks no name up."""

import ipaddress
import os

from tapecheck.errors import Problem
from tapecheck.target_file import Target


def is_loopback(host: str) -> bool:
    """Tell whether a host, `localhost` or a numeric address, is this machine; any other name is taken for another one."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def is_local_database(url: str) -> bool:
    """Tell whether every server that a PostgreSQL URL may lead to is on this machine, be it by a socket.

    Raises:
        psycopg.ProgrammingError: the URL cannot be read; its message may hold the URL.
    """
    from psycopg.conninfo import conninfo_to_dict  # 60 ms that only who has a database pays

    parts = conninfo_to_dict(url)
    if parts.get("service") or os.environ.get("PGSERVICE"):
        return False
    hosts = f"{parts.get('host') or os.environ.get('PGHOST', '')},{parts.get('hostaddr') or os.environ.get('PGHOSTADDR', '')}"
    return all(host == "" or host.startswith(("/", "@")) or is_loopback(host) for host in hosts.split(","))


def beyond(target: Target, what: str) -> Problem:
    """Return the problem of a target of which something leads beyond this machine although it does not say that it may."""
    allowed = "a loopback address; or allow_remote: true, if you may send requests there"
    return Problem(file=f"target {target.name}", key="allow_remote", got=f"false, while {what}", allowed=allowed)
