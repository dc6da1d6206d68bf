"""What a target offers drills: its URL, processes and database, and what may be done to it. It does nothing to it."""

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from tapecheck.errors import ConfigError, Problem
from tapecheck.http import tls
from tapecheck.recovery import actions
from tapecheck.recovery.experiment import Drill, View
from tapecheck.resources import locate
from tapecheck.runs.results import TargetInfo
from tapecheck.target import templates
from tapecheck.target.file import RequestTemplate, Secret, Target
from tapecheck.target.loopback import beyond, check_database, is_loopback

_REQUEST = re.compile(r"(GET|HEAD|POST) /\S*")
PLACES = ("base_url", "source_url", "processes", "database_url")  # configuration values that a target gives


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillTarget:
    """An opened target as drills see it; its secrets are in no representation of it."""

    target: Target = field(repr=False)
    info: TargetInfo
    source_url: str | None
    headers: Sequence[tuple[str, str]] = field(repr=False)
    database_url: str | None = field(repr=False)
    source_key: str = field(default="", repr=False)
    verify: ssl.SSLContext | bool = True

    @classmethod
    def of(cls, target: Target) -> Self:
        """Return what an opened target offers.

        Raises:
            ConfigError: it lies beyond this machine without `allow_remote`, or a secret is not there; nothing was sent.
        """
        assert target.base_url is not None, "an opened target has a URL"
        problems: list[Problem] = []
        host = urlsplit(target.base_url).hostname or ""
        if not target.allow_remote and not is_loopback(host):
            problems.append(beyond(target, f"base_url leads to {host}"))
        headers = templates.headers(target, problems)
        if problems:
            raise ConfigError(problems)
        ends = target.backfill
        database_url = _optional(ends.database_url) if ends else None
        if database_url:
            check_database(target, database_url)
        return cls(
            target=target,
            info=TargetInfo(name=target.name, kind=target.kind, base_url=target.base_url),
            source_url=ends.source_url if ends else None,
            source_key=_optional(ends.api_key) or "" if ends else "",
            headers=headers,
            database_url=database_url,
            verify=tls(target),
        )

    @property
    def base_url(self) -> str:
        """Where it is."""
        return self.info.base_url

    @property
    def processes(self) -> Mapping[str, Mapping[str, Any]]:
        """Its processes by name, each as a target file selects it."""
        return {name: one.model_dump(exclude_defaults=True) for name, one in self.target.processes.items()}

    def values(self) -> dict[str, Any]:
        """Return what an experiment's configuration gets."""
        found = {name: getattr(self, name) for name in PLACES}
        return {name: value for name, value in found.items() if value is not None}

    def asked(self, view: View) -> View:
        """Return a view with its request written out, whether a template of the target or in full."""
        if view.is_sql:
            return view
        template = self.template(view.request)
        return view.model_copy(update={"request": f"{template.method} {templates.path(template, view.parameters)}"})

    def template(self, text: str) -> RequestTemplate:
        """Return the request that is named in the target file, or written out."""
        return self.target.requests.get(text) or RequestTemplate(request=text)


def _optional(value: Secret | str) -> str | None:
    """Return a secret that may be missing."""
    try:
        return value.reveal() if isinstance(value, Secret) else value
    except ConfigError:
        return None


def check_allowed(target: Target, drills: Sequence[Drill]) -> None:
    """Refuse faults on a target that does not allow them, and drills that need what it does not have; before anything is touched.

    The sandbox is ours and may always be drilled, unless it fills a database that it did not start.

    Raises:
        ConfigError: every problem at once.
    """
    if not drills:
        return
    ends = target.backfill
    is_ours = target.kind == "sandbox" and (ends is None or isinstance(ends.database_url, str))  # its own has that URL written out
    if not is_ours and not target.allow_drills:
        allowed = "allow_drills: true, if you may break this target; or drills: freshness, or none"
        got = f"false, while it is to be broken by {', '.join(one.name for one in drills)}"
        raise ConfigError([Problem(file=f"target {target.name}", key="allow_drills", got=got, allowed=allowed)])
    given = {"base_url", *(["source_url"] if ends else []), *(["database_url"] if ends and _optional(ends.database_url) else [])}
    if found := [problem for drill in drills for problem in _missing(target, drill, given)]:
        raise ConfigError(found)


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
