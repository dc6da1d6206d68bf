"""Where a backfill's bars come from and go to, as a target says. It connects to nothing."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tapecheck.backfill.wire import Unauthorized
from tapecheck.errors import ConfigError, Problem
from tapecheck.loopback import beyond, is_local_database, is_loopback
from tapecheck.results import TargetInfo
from tapecheck.target_file import BackfillTarget, Secret, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where bars come from and go to; key and database URL are in no representation of it.

    Without a key nothing can be asked for: it is empty then, and `no_key` says what to do.
    """

    source_url: str
    key: str = field(repr=False)
    database_url: str = field(repr=False)
    target: TargetInfo
    no_key: str = "name it in the target's backfill.api_key"

    def check_key(self) -> None:
        """Refuse to go on without a key.

        Raises:
            Unauthorized: there is none.
        """
        if not self.key:
            raise Unauthorized(f"no API key: {self.no_key}")


def endpoints(target: Target) -> Endpoints:
    """Return the endpoints of a target that is opened, with its secrets revealed; a key that is not set fails each job by itself.

    Raises:
        ConfigError: the target names none, the key's file or the database's URL is not there or cannot be read, or one of them
            lies beyond this machine without `allow_remote`; nothing was sent.
    """
    ends = target.backfill
    if ends is None:
        allowed = "backfill: {source_url: https://…}, and maybe api_key and database_url; see config/targets/example.yaml"
        raise ConfigError([Problem(file=f"target {target.name}", key="backfill", got="nothing", allowed=allowed)])
    problems: list[Problem] = []
    key = _revealed(ends.api_key, problems) if ends.api_key.is_set else ""
    database_url = _revealed(ends.database_url, problems)
    if not (key.isascii() and key.isprintable()) or " " in key:
        got, allowed = "a key that no header can carry", "printable ASCII without spaces"
        problems.append(Problem(file=f"target {target.name}", key=ends.api_key.place, got=got, allowed=allowed))
    if not problems:
        problems = _remote(target, ends, database_url)
    if problems:
        raise ConfigError(problems)
    info = TargetInfo(name=target.name, kind=target.kind, base_url=ends.source_url)
    return Endpoints(source_url=ends.source_url, key=key, database_url=database_url, target=info, no_key=ends.api_key.remedy)


def _revealed(value: Secret | str, problems: list[Problem]) -> str:
    try:
        return value.reveal() if isinstance(value, Secret) else value
    except ConfigError as error:
        problems += error.problems
        return ""


def _remote(target: Target, ends: BackfillTarget, database_url: str) -> list[Problem]:
    """Return what lies beyond this machine although it may not; no message holds the database's URL."""
    import psycopg  # a twentieth of a second: paid by who measures

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
