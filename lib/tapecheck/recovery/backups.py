"""A database's backups: made, looked at before anything relies on one, and restored in place of a database that was dropped.

The commands are the target file's. It judges no objective, and knows no table by name.
"""

import contextlib
import datetime as dt
import getpass
import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from tapecheck.runs import folders
from tapecheck.target.file import RestorableDatabase

LONGEST_S = 4 * 3600.0  # for one command
SAID_S = 2.0  # an archive notes when it was made in whole seconds
FAILED, DESTROYED = "failed", "destroyed"  # files beside the backups: why the last one failed; from which one to restore
_TABLES = (
    "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'"
    " AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS"
    " (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1, 2"
)
_TEXTS = {"bytea_output": "hex", "lc_monetary": "C", "search_path": "pg_catalog"}  # on which the text of a row depends, beside `SETTINGS`
LONGEST_NAME = 63  # bytes of a name in PostgreSQL
EASTMOST = dt.timedelta(hours=12)  # a clock shows at most so much less than UTC
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

    at: dt.datetime  # by the clock on the wall of who made it, taken as UTC
    database: str
    tables: frozenset[str]

    @classmethod
    def of(cls, listing: str) -> Self:
        """Return what `pg_restore --list` printed; a table's name may have spaces."""
        found = {name: re.search(pattern, listing, re.MULTILINE) for name, pattern in _LISTED.items()}
        if not found["created"] or not found["database"]:
            raise ValueError("no time or database in the list of an archive")
        tables = re.findall(r"^\d+; \d+ \d+ TABLE DATA (\S+) (.+) \S*$", listing, re.MULTILINE)
        at = dt.datetime.fromisoformat(found["created"][1]).replace(tzinfo=dt.UTC)
        return cls(at=at, database=found["database"][1], tables=frozenset(".".join(one) for one in tables))


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup as it lies there, its files last `written` then; `unread` is why it cannot be read to its end."""

    name: str
    files: Mapping[str, int]
    written: dt.datetime
    manifest: Manifest | None = None
    archive: Archive | None = None
    unread: str = ""

    @property
    def at(self) -> dt.datetime:
        """When its data was as it is in it; without our note the latest time that its files allow, be they copies."""
        if self.manifest:
            return self.manifest.at
        return min(self.written, self.archive.at + EASTMOST) if self.archive else self.written

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
        if not noted and not self.archive:
            return "cannot be checked: no drill has noted what is in it, and its restore command is not pg_restore, which lists it"
        of = {one.database for one in (noted, self.archive) if one}
        if other := sorted(of - {name}):
            return f"is of another database: {other[0]}, not {name}"
        if noted and self.archive and self.archive.at < noted.at - dt.timedelta(seconds=SAID_S):
            return f"is older than it says: made at {self.archive.at:%Y-%m-%d %H:%M:%S}, not {noted.at:%Y-%m-%d %H:%M:%S} UTC"
        held = set(noted.tables) if noted else self.archive.tables if self.archive else set()
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
        name = f"{self.name}_restored"
        if len(name.encode()) <= LONGEST_NAME:
            return name
        return f"{self.name.encode()[:44].decode(errors='ignore')}_{hashlib.sha256(self.name.encode()).hexdigest()[:8]}_restored"

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
        for half in folder.glob(".2*T*-*"):  # of a drill that was killed
            _remove(half)
        older = [path for path in folder.glob("*.json") if (folder / path.stem).exists()]
        folders.write_bytes(folder / FAILED, b"it was interrupted")
        try:
            manifest = self._made(folder / made)
        except BaseException as error:
            _remove(folder / f".{made}")
            if not isinstance(error, RuntimeError | OSError | psycopg.Error):
                raise
            folders.write_bytes(folder / FAILED, first_line(error).encode())
            raise UnusableBackup(f"no backup was made: {first_line(error)}") from None
        folders.write_bytes(folder / f"{made}.json", manifest.model_dump_json().encode())
        (folder / FAILED).unlink()
        for path in older:
            _remove(path)
            _remove(folder / path.stem)
        return made, manifest

    def _made(self, path: Path) -> Manifest:
        part = path.with_name(f".{path.name}")  # the newest backup is never half of one
        with database.connect(self.url) as connection:
            connection.isolation_level, connection.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
            row, at = connection.execute("SELECT pg_export_snapshot()").fetchone(), dt.datetime.now(dt.UTC)
            words = self.commands.backup
            with self._started(words, backup=str(part), database=self.name, snapshot=str(row and row[0])) as process:
                tables = stored_tables(connection)
                _finished(process, words[0])
        if not part.exists():
            raise RuntimeError(f"{words[0]} ended well and made no {{backup}}")
        part.rename(path)
        return Manifest(database=self.name, at=at, files=_files(path), tables=tables, exact=any("{snapshot}" in word for word in words))

    # ---- looking at one ----

    def newest(self) -> Backup:
        """Return the newest backup as it is found, read to its end where pg_restore is what restores it.

        Raises:
            UnusableBackup: there is none, or the last one failed.
        """
        folder = self.folder
        found = [p for p in folder.glob("[!.]*") if p.suffix != ".json" and p.name not in (FAILED, DESTROYED)] if folder.is_dir() else []
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
        toc = path / "toc.dat"
        written = dt.datetime.fromtimestamp((toc if toc.exists() else path).stat().st_mtime, dt.UTC)
        return Backup(name=path.name, files=_files(path), written=written, manifest=manifest, **known)

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
        if not shutil.which(program := self.commands.restore[0]):
            raise UnusableBackup(f"there is no program {program} to restore with")
        try:
            return backup, self._dropped(backup), before
        except psycopg.Error as error:
            if not self._exists(self.name):
                raise
            (self.folder / DESTROYED).unlink(missing_ok=True)
            raise UnusableBackup(f"{self.name} was not dropped: {first_line(error)}") from None

    def _dropped(self, backup: Backup) -> int:
        """Drop the live database once there is an empty one beside it: who may drop a database need not be allowed to create one."""
        with self._server() as server:
            self._make_room(server)
            folders.write_bytes(self.folder / DESTROYED, backup.name.encode())
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                server.execute("CHECKPOINT")  # else the drop begins with one, which took a minute on a busy disk
            at_ns = time.monotonic_ns()
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name)))
        return at_ns

    def restore(self) -> dict[str, Any] | None:
        """Restore what `destroy` dropped, count it, and give it the live database's name; None where nothing is missing.

        It may be called again, as the watchdog does: what an attempt left half is made anew.

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
                self._make_room(server)
                self._mark(server, self.restoring, f"{self._empty}, begun")
                self._run(self.commands.restore, backup=str(path), database=self.restoring)
                restored_ns = time.monotonic_ns()
                with database.connect(database.conninfo(self.url, dbname=self.restoring)) as connection:
                    tables = stored_tables(connection)
                verified_ns = time.monotonic_ns()
                server.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(new, sql.Identifier(self.name)))
                switched_ns = time.monotonic_ns()
                self._mark(server, self.name, None)
        except (RuntimeError, psycopg.Error) as error:
            raise UnusableBackup(f"the backup {path.name} could not be restored: {first_line(error)}") from None
        marker.unlink()
        clocks = {"began_ns": began_ns, "restored_ns": restored_ns, "verified_ns": verified_ns, "switched_ns": switched_ns}
        return {**clocks, "restored": plain(tables)}

    @property
    def _empty(self) -> str:
        """The comment on a database that we made to restore into."""
        return f"made by tapecheck to restore {self.name} into"

    def _make_room(self, server: psycopg.Connection) -> None:
        """Make the empty database to restore into; one of that name that we did not make may be somebody's, and is refused."""
        asked = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
        found, new = server.execute(asked, (self.restoring,)).fetchone(), sql.Identifier(self.restoring)
        if found and found[0] == self._empty:
            return
        if found and found[0] != f"{self._empty}, begun":
            raise UnusableBackup(f"the database {self.restoring}, to restore into, is there, and no drill made it: rename or drop it")
        server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(new))
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(new))
        self._mark(server, self.restoring, self._empty)

    def _mark(self, server: psycopg.Connection, name: str, comment: str | None) -> None:
        server.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(comment)))

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

    @contextlib.contextmanager
    def _started(self, words: Sequence[str], **places: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command, which finds server, user and database where libpq looks: no password is an argument of it.

        It is ended, with all that it started, when the block raises.
        """
        filled = [re.sub(r"\{(\w+)\}", lambda found: places.get(found[1], found[0]), word) for word in words]
        given = conninfo_to_dict(self.url, **({"dbname": places["database"]} if "database" in places else {}))
        names = {one.keyword.decode(): one.envvar.decode() for one in pq.Conninfo.get_defaults() if one.envvar}
        own = {names[key]: str(value) for key, value in given.items() if key in names}
        try:
            process = subprocess.Popen(
                filled, env={**os.environ, **own, "TZ": "UTC", "LC_ALL": "C"}, start_new_session=True, umask=0o077,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            )  # fmt: skip
        except OSError as error:
            raise RuntimeError(f"{words[0]} did not run: {error.strerror}") from None
        with process:
            try:
                yield process
            except BaseException:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                raise


def _finished(process: subprocess.Popen[str], program: str) -> str:
    """Return what a command printed."""
    try:
        printed, complaint = process.communicate(timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{Path(program).name} took more than {LONGEST_S:g} s") from None
    if process.returncode:
        lines = [line for line in complaint.splitlines() if line.strip()]
        raise RuntimeError(f"{Path(program).name} ended with exit code {process.returncode}: {lines[-1] if lines else 'it says nothing'}")
    return printed


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _files(path: Path) -> dict[str, int]:
    """Return the bytes of each file of a backup."""
    every: Iterable[Path] = path.rglob("*") if path.is_dir() else [path]
    return {str(one.relative_to(path.parent if one == path else path)): one.stat().st_size for one in every if one.is_file()}


# ---- tables ----


def stored_tables(connection: psycopg.Connection, *, checksums: bool = True) -> dict[str, StoredTable]:
    """Return the rows of every table that a dump holds, by its name, and the sum of their hashes (modulo 2^64)."""
    for name, value in _TEXTS.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    names = connection.execute(_TABLES).fetchall()
    return {f"{schema}.{table}": _stored(connection, sql.Identifier(schema, table), checksums) for schema, table in names}


def _stored(connection: psycopg.Connection, table: sql.Identifier, checksums: bool) -> StoredTable:
    """Hash the text of each row: of a row itself the hash depends on the OIDs of its types, such as enums, and not all types have one."""
    hashed = sql.SQL("hashtextextended(ROW(t.*)::text, 0)" if checksums else "0")
    asked = sql.SQL("SELECT count(*), sum(({})::numeric) FROM {} t").format(hashed, table)
    rows, total = connection.execute(asked).fetchone() or (0, None)
    return StoredTable(rows=rows, checksum=f"{int(total) % 2**64:016x}" if checksums and total is not None else "")


def plain(tables: Mapping[str, StoredTable]) -> dict[str, Any]:
    """Return tables as plain JSON data, for the journal."""
    return {name: one.model_dump() for name, one in tables.items()}
