"""What the sandbox serves and where its files are: symbols, tiers, ports, home, and what its processes get to see."""

import contextlib
import fcntl
import json
import os
import pwd
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Literal, Self
from urllib.parse import quote

from pydantic import AfterValidator, Field, ValidationError

from tapecheck.config import Model, sandbox_held, sandbox_home, sandbox_users
from tapecheck.errors import SandboxError

SYMBOLS = (
    "AAPL", "MSFT", "GOOGL", "AMZN", "TSLA", "NVDA", "META", "NFLX", "AVGO", "ASML", "BRK.B", "JPM", "V", "WMT", "JNJ",
    "BTC", "ETH", "XRP", "SOL", "ADA", "SPY", "QQQ", "DIA", "IWM", "EEM",
)  # fmt: skip
Frame = Literal["5m", "15m", "1h", "4h", "1d"]

CRITICAL, STANDARD, LOW = 0, 1, 2
REFRESH_S = {CRITICAL: 15 * 60, STANDARD: 60 * 60, LOW: 1440 * 60}
_TIERS = dict.fromkeys(("SPY", "QQQ", "BTC", "ETH"), CRITICAL) | dict.fromkeys(SYMBOLS[:10], STANDARD)
NOT_FOR_INITDB = r"[\"$`\\\n\r]"  # it hands paths to a shell between double quotes
PROCESSES = ("database", "upstream", "scheduler", "api")
LINKS = {"api-database": "database", "scheduler-database": "database", "scheduler-vendor": "upstream"}  # and what each leads to
SERVER_USER = "nobody" if os.getuid() == 0 else None  # postgres refuses to run as root
NEEDED = {"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "TAPECHECK_SANDBOX_HOME"}


def tier_of(symbol: str) -> int:
    """Return the symbol's tier; whatever is in no list is of low priority."""
    return _TIERS.get(symbol, LOW)


def _listed(symbol: str) -> str:
    if symbol not in SYMBOLS:
        raise ValueError("one of " + ", ".join(SYMBOLS))
    return symbol


class Profile(Model):
    """How much the sandbox holds; another profile means another history, so the data is filled anew."""

    symbols: tuple[Annotated[str, AfterValidator(_listed)], ...] = Field(default=SYMBOLS, min_length=1)
    timeframes: tuple[Frame, ...] = Field(default=("5m", "15m", "1h", "4h", "1d"), min_length=1)
    days: int = Field(default=365, ge=2, le=3650)

    @classmethod
    def of(cls, home: "Home") -> Self | None:
        """Return what a home holds; None where it holds nothing, or what an older version put there."""
        try:
            return cls.model_validate_json(home.profile.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None


class Ports(Model):
    """Where each process listens on loopback; `database` is the embedded server's."""

    database: int
    upstream: int
    scheduler: int
    api: int

    @classmethod
    def of(cls, home: "Home") -> Self:
        """Return the ports that a home was last given."""
        return cls.model_validate_json(home.ports.read_bytes())


class Home:
    """The sandbox's folder and the files in it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or sandbox_home()
        self.data = self.folder / "data"
        self.logs = self.folder / "logs"
        self.backups = self.folder / "backups"
        self.conf = self.folder / "supervisord.conf"
        self.socket = self.folder / "ctl.sock"
        self.profile = self.folder / "profile.json"
        self.ports = self.folder / "ports.json"
        self.links = self.folder / "links.json"  # there while a drill has put links in the way
        self.state = self.folder / "state.json"
        self.passfile = self.folder / "passfile"
        self.key = self.folder / "upstream.key"
        self.users = sandbox_users(self.folder)
        self.held = sandbox_held(self.folder)
        self.stays = self.folder / "stays"  # there while it runs because of `sandbox up`
        self.reaper = self.folder / "reaper"

    def create(self) -> None:
        """Make the folder, ours alone; as root the group of the database's user may pass through it."""
        path = str(self.folder)
        if re.search(NOT_FOR_INITDB, path):
            raise SandboxError(f"{path!r} holds a quote, $, ` or a line break; set TAPECHECK_SANDBOX_HOME to a plainer folder")
        if len(os.fsencode(self.socket)) > 94:  # supervisord adds its pid; macOS allows 103 bytes in all
            raise SandboxError(f"{self.socket} is too long for a socket; set TAPECHECK_SANDBOX_HOME to a shorter folder (at most 85 bytes)")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise SandboxError(f"{path} belongs to another user; remove it or set TAPECHECK_SANDBOX_HOME")
            if SERVER_USER:
                shutil.chown(self.folder, group=server_group())
            self.folder.chmod(0o710 if SERVER_USER else 0o700)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise SandboxError(f"{path} cannot be used ({error}); set TAPECHECK_SANDBOX_HOME to another folder") from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time start or stop the sandbox; the lock ends with the process that holds it."""
        with open_private(self.folder / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def secret(self) -> str:
        """Return the key of the sandbox's upstream and of its admin requests, made at random once a home."""
        if not self.key.exists():
            write_private(self.key, secrets.token_urlsafe(24))
        return self.key.read_text()

    def port(self, name: str, link: str) -> int:
        """Return the port of a process, or of the link that a drill has put before it."""
        try:
            routes = json.loads(self.links.read_bytes())
        except (FileNotFoundError, ValueError):
            routes = {}
        return int(routes.get(link) or getattr(Ports.of(self), name))

    def database_url(self, link: str = "") -> str:
        """Return where the database is, by a link if one is named and in the way.

        The password is in a file that the URL names, or in the environment alone.
        """
        asked = os.environ.get("DATABASE_URL")
        if asked:
            return asked
        passfile = quote(str(self.passfile), safe="")
        return f"postgresql://tapecheck@127.0.0.1:{self.port('database', link)}/postgres?passfile={passfile}"


def server_group() -> int:
    """Return the group of the user that the database runs as."""
    return pwd.getpwnam(SERVER_USER).pw_gid if SERVER_USER else os.getgid()


def environment(**more: str) -> dict[str, str]:
    """Return what a process of the sandbox needs of the environment; no secret of a target is in it."""
    needed = {name: value for name, value in os.environ.items() if name in NEEDED or name.startswith("LC_")}
    if os.environ.get("DATABASE_URL"):
        needed |= {name: value for name, value in os.environ.items() if name == "DATABASE_URL" or name.startswith("PG")}
    return needed | more


def open_private(path: Path) -> IO[str]:
    """Open a file that only its owner can open, and so lock; it is made if it is not there, and no link is followed."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.rename(path)
