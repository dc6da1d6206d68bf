"""Where a backfill's bars come from and go to, as a target says. It connects to nothing."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psycopg

from tapecheck.errors import ConfigError, Problem
from tapecheck.loopback import beyond, is_local_database, is_loopback
from tapecheck.results import TargetInfo
from tapecheck.target_file import BackfillTarget, Secret, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where bars come from and go to; key and database URL are in no representation of it."""

    source_url: str
    key: str = field(repr=False)
    database_url: str = field(repr=False)
    target: TargetInfo


def endpoints(target: Target) -> Endpoints:
    """Return the endpoints of a target that is opened, with its secrets revealed.

    Raises:
        ConfigError: the target names none, a secret is not there, the database's URL cannot be read, or one of them lies
            beyond this machine without `allow_remote`; nothing was sent.
    """
    ends = target.backfill
    if ends is None:
        allowed = "backfill: {source_url: https://…}, and maybe api_key and database_url; see config/targets/example.yaml"
        raise ConfigError([Problem(file=f"target {target.name}", key="backfill", got="nothing", allowed=allowed)])
    problems: list[Problem] = []
    key, database_url = _revealed(ends.api_key, problems), _revealed(ends.database_url, problems)
    if not (key.isascii() and key.isprintable()) or " " in key:
        place = ends.api_key.place if isinstance(ends.api_key, Secret) else "api_key"
        problems.append(
            Problem(file=f"target {target.name}", key=place, got="a key that no header can carry", allowed="printable ASCII without spaces")
        )
    if not problems:
        problems = _remote(target, ends, database_url)
    if problems:
        raise ConfigError(problems)
    info = TargetInfo(name=target.name, kind=target.kind, base_url=ends.source_url)
    return Endpoints(source_url=ends.source_url, key=key, database_url=database_url, target=info)


def _revealed(value: Secret | str, problems: list[Problem]) -> str:
    try:
        return value.reveal() if isinstance(value, Secret) else value
    except ConfigError as error:
        problems += error.problems
        return ""


def _remote(target: Target, ends: BackfillTarget, database_url: str) -> list[Problem]:
    """Return what lies beyond this machine although it may not; no message holds the database's URL."""
    found = []
    place = ends.database_url.place if isinstance(ends.database_url, Secret) else "database_url"
    try:
        if not target.allow_remote and not is_local_database(database_url):
            found.append(beyond(target, f"the database of {place} may be on another machine"))
    except psycopg.ProgrammingError:
        allowed = "postgresql://user@host:5432/database"
        found.append(Problem(file=f"target {target.name}", key=place, got="a URL that cannot be read", allowed=allowed))
    host = urlsplit(ends.source_url).hostname or ""
    if not target.allow_remote and not is_loopback(host):
        found.append(beyond(target, f"backfill.source_url leads to {host}, beyond this machine"))
    return found
