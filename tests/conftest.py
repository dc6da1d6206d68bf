"""The one fixture that starts real processes: a small sandbox for the whole session."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapecheck.config import SandboxState


@pytest.fixture(scope="session")
def sandbox() -> Iterator[SandboxState]:
    """A filled sandbox of six symbols and 30 days in a folder of its own; nothing of it is left afterwards."""
    import psutil

    from tapecheck.sandbox import supervision
    from tapecheck.sandbox.profile import Profile

    base = "/var/tmp" if Path("/var/tmp").is_dir() else None
    home = Path(tempfile.mkdtemp(prefix="tct-", dir=base)).resolve()
    before = os.environ.get("TAPECHECK_SANDBOX_HOME")
    os.environ["TAPECHECK_SANDBOX_HOME"] = str(home)
    try:
        state = supervision.up(profile=Profile(symbols=("AAPL", "MSFT", "GOOGL", "SPY", "BTC", "ETH"), days=30))
        supervision.wait_filled(timeout_s=90)
        yield state
    finally:
        supervision.down()
        left = [process.pid for process in psutil.process_iter(["cmdline"]) if str(home) in " ".join(process.info["cmdline"] or [])]
        sockets = [path for path in home.rglob("*") if path.is_socket()]
        shutil.rmtree(home, ignore_errors=True)
        if before is None:
            del os.environ["TAPECHECK_SANDBOX_HOME"]
        else:
            os.environ["TAPECHECK_SANDBOX_HOME"] = before
        assert (left, sockets) == ([], [])
