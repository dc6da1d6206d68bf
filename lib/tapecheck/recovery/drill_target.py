"""What a target offers drills: its URL, processes and database, and what may be done to it. It does nothing to it."""

import logging
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from tapecheck.errors import ConfigError, Problem
from tapecheck.http import tls
from tapecheck.recovery import actions
from tapecheck.recovery.experiment import Drill, View
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.resources import locate
from tapecheck.runs.results import TargetInfo
from tapecheck.target import templates
from tapecheck.target.file import RequestTemplate, Secret, Target
from tapecheck.target.opening import beyond, is_local_database, is_loopback

_REQUEST = re.compile(r"(GET|HEAD|POST) /\S*")
PLACES = ("base_url", "source_url", "processes", "database_url")  # configuration values that a target gives


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """An opened target as drills see it; its secrets are in no representation of it."""

    target: TargetInfo
    base_url: str
    source_url: str | None
    requests: Mapping[str, RequestTemplate]
    processes: Mapping[str, Mapping[str, Any]]
    headers: Mapping[str, str] = field(repr=False)
    database_url: str | None = field(repr=False)
    source_key: str = field(default="", repr=False)
    verify: ssl.SSLContext | bool = True

    def values(self) -> dict[str, Any]:
        """Return what an experiment's configuration gets."""
        found = {name: getattr(self, name) for name in PLACES}
        return {name: value for name, value in found.items() if value is not None}

    def asked(self, view: View) -> View:
        """Return a view with its request written out, whether a template of the target or in full."""
        return view if view.is_sql else view.model_copy(update={"request": self.request(view.request, view.parameters)})

    def request(self, text: str, values: Mapping[str, str | int] | None = None) -> str:
        """Return `METHOD /path` of a request that is named in the target file, or written out."""
        template = self.requests.get(text) or RequestTemplate(request=text)
        return f"{template.method} {templates.path(template, values or {})}"


def ground(target: Target) -> Ground:
    """Return what an opened target offers.

    Raises:
        ConfigError: it lies beyond this machine without `allow_remote`, or a secret is not there; nothing was sent.
    """
    assert target.base_url is not None, "an opened target has a URL"
    logging.getLogger("httpx").setLevel(logging.WARNING)  # its INFO lines hold whole URLs
    host = httpx.URL(target.base_url).host
    if not target.allow_remote and not is_loopback(host):
        raise ConfigError([beyond(target, f"base_url leads to {host}")])
    ends = target.backfill
    return Ground(
        target=TargetInfo(name=target.name, kind=target.kind, base_url=target.base_url),
        base_url=target.base_url,
        source_url=ends.source_url if ends else None,
        source_key=_optional(ends.api_key) or "" if ends else "",
        requests=target.requests,
        processes={name: one.model_dump(exclude_defaults=True) for name, one in target.processes.items()},
        headers=dict(_headers(target)),
        database_url=_database(target, ends.database_url) if ends else None,
        verify=tls(target),
    )


def _headers(target: Target) -> list[tuple[str, str]]:
    problems: list[Problem] = []
    found = templates.headers(target, problems)
    if problems:
        raise ConfigError(problems)
    return found


def _optional(value: Secret | str) -> str | None:
    """Return a secret that may be missing."""
    try:
        return value.reveal() if isinstance(value, Secret) else value
    except ConfigError:
        return None


def _database(target: Target, value: Secret | str) -> str | None:
    """Return the database's URL, or None where it is not set; it may lead to another machine only where that is allowed."""
    url = _optional(value)
    try:
        if url and not target.allow_remote and not is_local_database(url):
            raise ConfigError([beyond(target, "its database may be on another machine")])
    except psycopg.ProgrammingError:
        allowed = "postgresql://user@host:5432/database"
        raise ConfigError(
            [Problem(file=f"target {target.name}", key="database_url", got="a URL that cannot be read", allowed=allowed)]
        ) from None
    return url


def check_promised(plan: RecoveryPlan, drills: Sequence[Drill]) -> None:
    """Refuse drills about failures of which the plan promises nothing: they would break the target, and nobody would judge it.

    Raises:
        ConfigError: every one at once.
    """
    key, allowed = "extensions.tapecheck.failure", f"a failure of the plan's rto: {', '.join(plan.rto)}"
    unknown = [one for one in drills if one.watching.failure not in plan.rto]
    if found := [Problem(file=str(one.path), key=key, got=repr(one.watching.failure), allowed=allowed) for one in unknown]:
        raise ConfigError(found)


def check_allowed(target: Target, drills: Sequence[Drill]) -> None:
    """Refuse faults on a target that does not allow them, and drills that need what it does not have; before anything is touched.

    The sandbox is ours and may always be drilled, unless it fills a database that it did not start.

    Raises:
        ConfigError: every problem at once.
    """
    if not drills:
        return
    found: list[Problem] = []
    if not _is_ours(target) and not target.allow_drills:
        allowed = "allow_drills: true, if you may break this target; or drills: freshness, or none"
        got = f"false, while it is to be broken by {', '.join(one.name for one in drills)}"
        raise ConfigError([Problem(file=f"target {target.name}", key="allow_drills", got=got, allowed=allowed)])
    given = {"base_url"}
    if ends := target.backfill:
        given |= {"source_url", *(["database_url"] if _optional(ends.database_url) else [])}
    for drill in drills:
        found += _missing(target, drill, given)
    if found:
        raise ConfigError(found)


def _is_ours(target: Target) -> bool:
    """Tell whether all of a target was started by us: a sandbox whose database is its own has that URL written out."""
    return target.kind == "sandbox" and (target.backfill is None or isinstance(target.backfill.database_url, str))


def check_processes(target: Target, drills: Sequence[Drill]) -> None:
    """Refuse drills about a process that an opened target's selectors do not name, or name several times, before anything is touched.

    Raises:
        ConfigError: every one at once, with the pid and command line of each of several.
    """
    found: list[Problem] = []
    for name in dict.fromkeys(name for one in drills for name in one.broken):
        selector = target.processes[name]
        if why := actions.unfit(selector, locate(selector)):
            allowed = "a pid, port or command of exactly one process; or all: true beside it, to break all of several"
            found.append(Problem(file=f"target {target.name}", key=f"processes.{name}", got=why, allowed=allowed))
    if found:
        raise ConfigError(found)


def _missing(target: Target, drill: Drill, given: set[str]) -> list[Problem]:
    file, found = str(drill.path), []
    if absent := [name for name in drill.broken if name not in target.processes]:
        allowed = f"processes: {{{absent[0]}: {{port: …}}}} in the target file"
        found.append(Problem(file=file, key="processes", got=f"target {target.name} without {', '.join(absent)}", allowed=allowed))
    for name, view in drill.watching.views.items():
        if not view.is_sql and view.request not in target.requests and not _REQUEST.fullmatch(view.request):
            allowed = f"METHOD /path, a SELECT, or a request of the target file: {', '.join(target.requests)}"
            found.append(Problem(file=file, key=f"views.{name}.request", got=repr(view.request), allowed=allowed))
    needed = (drill.places & set(PLACES)) | ({"database_url"} if drill.needs_database else set())
    if wanting := sorted(needed - given - {"processes"}):
        allowed = "backfill: {source_url: …, database_url: …} in the target file"
        found.append(Problem(file=file, key="configuration", got=f"target {target.name} without {', '.join(wanting)}", allowed=allowed))
    return found
