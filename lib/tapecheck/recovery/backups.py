"""A database's backups: made, looked at before anything relies on one, and restored in place of a database that was dropped.

The commands are the target file's. It judges no objective, and knows no table by name.
"""

import contextlib
import datetime as dt
import getpass
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict

from tapecheck import config, database
from tapecheck.config import Model
from tapecheck.errors import first_line
from tapecheck.recovery.recording import StoredTable, UnusableBackup
from tapecheck.target.file import RestorableDatabase

LONGEST_S = 4 * 3600.0  # for one command
SAID_S = 2.0  # an archive notes when it was made in whole seconds
FAILED, DESTROYED = "failed", "destroyed"  # files beside the backups: why the last one failed; from which one to restore
_TABLES = (
    "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'"
    " AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS"
    " (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1, 2"
)
_LISTED = {"created": r"Archive created at (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", "database": r"^; +dbname: (.*)$"}


class Manifest(Model):
    """What was noted when a backup was made; its tables are those of the snapshot that was dumped only where it is `exact`."""

    database: str
    at: dt.datetime
    files: dict[str, int]  # bytes by name
    tables: dict[str, StoredTable]
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What an archive of pg_dump says itself: when it was made, of which database, and the tables whose rows are in it."""

    at: dt.datetime
    database: str
    tables: frozenset[str]

    @classmethod
    def of(cls, listing: str) -> Self:
        """Return what `pg_restore --list` printed, in UTC."""
        found = {name: re.search(pattern, listing, re.MULTILINE) for name, pattern in _LISTED.items()}
        if not found["created"] or not found["database"]:
            raise ValueError("no time or database in the list of an archive")
        tables = re.findall(r"^\d+; \d+ \d+ TABLE DATA (\S+) (\S+) ", listing, re.MULTILINE)
        at = dt.datetime.fromisoformat(found["created"][1]).replace(tzinfo=dt.UTC)
        return cls(at=at, database=found["database"][1], tables=frozenset(".".join(one) for one in tables))


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup as it lies there; `unread` is why it cannot be read to its end."""

    name: str
    files: Mapping[str, int]
    manifest: Manifest | None = None
    archive: Archive | None = None
    unread: str = ""

    @property
    def at(self) -> dt.datetime | None:
        """When its data was as it is in it."""
        return self.manifest.at if self.manifest else self.archive.at if self.archive else None

    def wrong(self, name: str, live: Mapping[str, StoredTable]) -> str:
        """Say why a database of a name, with these tables, must not be dropped for it; nothing where it can be relied on."""
        if not sum(self.files.values()):
            return "is empty: it has no bytes"
        noted = self.manifest
        for file, size in noted.files.items() if noted else ():
            if self.files.get(file) != size:
                return f"is truncated: {file} has {self.files.get(file, 0):,} of {size:,} bytes"
        if self.unread:
            return f"is truncated, or no backup: {self.unread}"
        of = {one.database for one in (noted, self.archive) if one}
        if other := sorted(of - {name}):
            return f"is of another database: {other[0]}, not {name}"
        if noted and self.archive and self.archive.at < noted.at - dt.timedelta(seconds=SAID_S):
            return f"is older than it says: made at {self.archive.at:%Y-%m-%d %H:%M:%S}, not {noted.at:%Y-%m-%d %H:%M:%S} UTC"
        held = set(noted.tables) if noted else self.archive.tables if self.archive else set(live)
        if missing := sorted(live.keys() - held):
            return f"lacks {len(missing)} of {len(live)} tables of {name}, such as {missing[0]}"
        if noted and not any(one.rows for one in noted.tables.values()) and any(one.rows for one in live.values()):
            return f"is empty: it has no rows, {name} has {sum(one.rows for one in live.values()):,}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backups:
    """The backups of a target's database, which may be dropped: `expendable` is checked here too, for who runs a drill otherwise."""

    commands: RestorableDatabase
    url: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.commands.expendable:
            raise RuntimeError("the target's database is not marked `expendable: true`; nothing was touched")

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return config.expanded(self.commands.backups)

    @property
    def name(self) -> str:
        """The live database."""
        given, known = conninfo_to_dict(self.url), os.environ.get
        return str(given.get("dbname") or known("PGDATABASE") or given.get("user") or known("PGUSER") or getpass.getuser())

    @property
    def restoring(self) -> str:
        """The database into which a backup is restored before it takes the live one's name."""
        return f"{self.name[:50]}_restored"

    # ---- making one ----

    def back_up(self) -> tuple[str, Manifest]:
        """Make a backup and note what is in it; of those before it with such a note none is kept.

        Raises:
            UnusableBackup: the command failed, or made nothing; until one works, the database is not dropped.
        """
        folder, made = self.folder, dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S-") + secrets.token_hex(2)
        if not self.commands.backup:
            raise UnusableBackup("the target file has no command for a backup (database.backup)")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        older = [path for path in folder.glob("*.json") if (folder / path.stem).exists()]
        (folder / FAILED).write_text("it was interrupted")
        try:
            manifest = self._made(folder / made)
        except (RuntimeError, OSError, psycopg.Error) as error:
            (folder / FAILED).write_text(first_line(error))
            shutil.rmtree(folder / made, ignore_errors=True)
            raise UnusableBackup(f"no backup was made: {first_line(error)}") from None
        (folder / f"{made}.json").write_text(manifest.model_dump_json())
        (folder / FAILED).unlink()
        for path in older:
            path.unlink()
            one = folder / path.stem
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        return made, manifest

    def _made(self, path: Path) -> Manifest:
        with database.connect(self.url) as connection:
            connection.isolation_level, connection.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
            row, at = connection.execute("SELECT pg_export_snapshot()").fetchone(), dt.datetime.now(dt.UTC)
            words = self.commands.backup
            with self._started(words, backup=str(path), database=self.name, snapshot=str(row and row[0])) as process:
                tables = stored_tables(connection)
                _finished(process, words[0])
        if not path.exists():
            raise RuntimeError(f"{words[0]} ended well and made no {path.name}")
        return Manifest(database=self.name, at=at, files=_files(path), tables=tables, exact=any("{snapshot}" in word for word in words))

    # ---- looking at one ----

    def newest(self) -> Backup:
        """Return the newest backup as it is found, read to its end where pg_restore is what restores it.

        Raises:
            UnusableBackup: there is none, or the last one failed.
        """
        folder = self.folder
        found = [p for p in folder.glob("*") if p.suffix != ".json" and p.name not in (FAILED, DESTROYED)] if folder.is_dir() else []
        if not found:
            raise UnusableBackup(f"no backup was ever made: {self.commands.backups} holds none")
        if (folder / FAILED).exists():
            raise UnusableBackup(f"the last backup failed: {(folder / FAILED).read_text()}")
        path = max(found, key=lambda one: (one.stat().st_mtime_ns, one.name))
        noted = folder / f"{path.name}.json"
        manifest = Manifest.model_validate_json(noted.read_bytes()) if noted.exists() else None
        known: dict[str, Any] = {}
        if Path(self.commands.restore[0]).name == "pg_restore" and (files := _files(path)) and any(files.values()):
            try:
                known["archive"] = Archive.of(self._run([self.commands.restore[0], "--list", str(path)]))
                self._run([self.commands.restore[0], "--file", os.devnull, str(path)])
            except (RuntimeError, ValueError) as error:
                known["unread"] = first_line(error)
        return Backup(name=path.name, files=_files(path), manifest=manifest, **known)

    # ---- destroying and restoring ----

    def destroy(self) -> tuple[Backup, int, dict[str, StoredTable]]:
        """Drop the live database, if its newest backup can be relied on and there is where to restore it.

        Returns:
            The backup, when (ns, monotonic) the database was dropped, and how many rows each table had just before.

        Raises:
            UnusableBackup: nothing was touched.
        """
        backup = self.newest()
        with database.connect(self.url) as connection:
            before = stored_tables(connection, checksums=False)
        if wrong := backup.wrong(self.name, before):
            raise UnusableBackup(f"the backup {backup.name} {wrong}")
        self._check_empty()
        (self.folder / DESTROYED).write_text(backup.name)
        with self._server() as server:
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                server.execute("CHECKPOINT")  # else the drop begins with one, which took a minute on a busy disk
            at_ns = time.monotonic_ns()
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name)))
        return backup, at_ns, before

    def restore(self) -> dict[str, Any] | None:
        """Restore what `destroy` dropped, count it, and give it the live database's name; None where nothing is missing.

        It may be called again, by whoever takes over: what an attempt left half is made anew.

        Raises:
            UnusableBackup: it could not be restored; the live database is still missing.
        """
        marker = self.folder / DESTROYED
        if not marker.exists() or self._exists(self.name):
            marker.unlink(missing_ok=True)
            return None
        path, new, began_ns = self.folder / marker.read_text(), sql.Identifier(self.restoring), time.monotonic_ns()
        try:
            with self._server() as server:
                server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(new))
                server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(new))
                self._run(self.commands.restore, backup=str(path), database=self.restoring)
                restored_ns = time.monotonic_ns()
                with database.connect(database.conninfo(self.url, dbname=self.restoring)) as connection:
                    tables = stored_tables(connection)
                verified_ns = time.monotonic_ns()
                server.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(new, sql.Identifier(self.name)))
        except (RuntimeError, psycopg.Error) as error:
            raise UnusableBackup(f"the backup {path.name} could not be restored: {first_line(error)}") from None
        marker.unlink()
        clocks = {"began_ns": began_ns, "restored_ns": restored_ns, "verified_ns": verified_ns, "switched_ns": time.monotonic_ns()}
        return {**clocks, "restored": plain(tables)}

    def _check_empty(self) -> None:
        """Refuse a database with tables where the backup is to be restored: who made them would lose them."""
        if not self._exists(self.restoring):
            return
        with database.connect(database.conninfo(self.url, dbname=self.restoring)) as connection:
            if held := connection.execute(_TABLES).fetchall():
                what = f"it has {len(held)} tables, such as {'.'.join(held[0])}"
                raise UnusableBackup(f"the database {self.restoring}, to restore into, is not empty: {what}")

    def _server(self) -> psycopg.Connection:
        """Return a connection with the server, in a database that is not the live one."""
        other = "template1" if self.name == "postgres" else "postgres"
        return database.connect(database.conninfo(self.url, dbname=other), autocommit=True)

    def _exists(self, name: str) -> bool:
        with self._server() as server:
            return bool(server.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchall())

    # ---- commands ----

    def _run(self, words: Sequence[str], **places: str) -> str:
        with self._started(words, **places) as process:
            return _finished(process, words[0])

    def _started(self, words: Sequence[str], **places: str) -> subprocess.Popen[str]:
        """Start a command, which finds server, user and database where libpq looks: no password is an argument of it."""
        filled = [re.sub(r"\{(\w+)\}", lambda found: places.get(found[1], found[0]), word) for word in words]
        given = conninfo_to_dict(self.url, **({"dbname": places["database"]} if "database" in places else {}))
        names = {one.keyword.decode(): one.envvar.decode() for one in pq.Conninfo.get_defaults() if one.envvar}
        own = {names[key]: str(value) for key, value in given.items() if key in names}
        try:
            return subprocess.Popen(
                filled, env={**os.environ, **own, "TZ": "UTC", "LC_ALL": "C"},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            )  # fmt: skip
        except OSError as error:
            raise RuntimeError(f"{words[0]} did not run: {error.strerror}") from None


def _finished(process: subprocess.Popen[str], program: str) -> str:
    """Return what a command printed; it is ended with whoever waits for it."""
    try:
        printed, complaint = process.communicate(timeout=LONGEST_S)
    except BaseException as error:
        process.kill()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"{Path(program).name} took more than {LONGEST_S:g} s") from None
        raise
    if process.returncode:
        lines = [line for line in complaint.splitlines() if line.strip()]
        raise RuntimeError(f"{Path(program).name} ended with exit code {process.returncode}: {lines[-1] if lines else 'it says nothing'}")
    return printed


def _files(path: Path) -> dict[str, int]:
    """Return the bytes of each file of a backup."""
    every: Iterable[Path] = path.rglob("*") if path.is_dir() else [path]
    return {str(one.relative_to(path.parent if one == path else path)): one.stat().st_size for one in every if one.is_file()}


# ---- tables ----


def stored_tables(connection: psycopg.Connection, *, checksums: bool = True) -> dict[str, StoredTable]:
    """Return the rows of every table that a dump holds, by its name, and the sum of their hashes (modulo 2^64)."""
    names = connection.execute(_TABLES).fetchall()
    return {f"{schema}.{table}": _stored(connection, sql.Identifier(schema, table), checksums) for schema, table in names}


def _stored(connection: psycopg.Connection, table: sql.Identifier, checksums: bool) -> StoredTable:
    """Hash whole rows, or their text where a column has a type that cannot be hashed."""
    for hashed in ("hash_record_extended(t, 0)", "hashtextextended(t::text, 0)") if checksums else ("0",):
        try:
            with connection.transaction():
                asked = sql.SQL("SELECT count(*), sum(({})::numeric) FROM {} t").format(sql.SQL(hashed), table)
                rows, total = connection.execute(asked).fetchone() or (0, None)
        except psycopg.errors.UndefinedFunction:
            continue
        return StoredTable(rows=rows, checksum=f"{int(total) % 2**64:016x}" if checksums and total is not None else "")
    raise RuntimeError(f"{table.as_string(connection)} has rows that cannot be hashed")


def plain(tables: Mapping[str, StoredTable]) -> dict[str, Any]:
    """Return tables as plain JSON data, for the journal."""
    return {name: one.model_dump() for name, one in tables.items()}
