"""What tests of several files stand on: a small sandbox of real processes for the whole session, and a TLS server."""

import os
import shutil
import signal
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import servers
import trustme
from backfills import SCHEMA
from servers import Server

from tapecheck.backfill.endpoints import Endpoints
from tapecheck.results import TargetInfo
from tapecheck.sandbox.profile import Home
from tapecheck.targets import SandboxState

signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell begin with it ignored


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


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that nothing else knows."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    """The authority's own certificate, in a file."""
    path = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[Server]:
    """A fast server with the authority's certificate for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with Server(servers.fast, tls=context) as server:
        yield server


@pytest.fixture
def database_url(sandbox: SandboxState) -> str:
    """The sandbox's database."""
    assert sandbox.database_url
    return sandbox.database_url


@pytest.fixture(scope="session")
def endpoints(sandbox: SandboxState) -> Endpoints:
    """The sandbox's upstream and database."""
    assert sandbox.database_url
    target = TargetInfo(name="sandbox", kind="sandbox", base_url=sandbox.upstream_url)
    return Endpoints(source_url=sandbox.upstream_url, key=Home().secret(), database_url=sandbox.database_url, target=target)


@pytest.fixture
def connection(endpoints: Endpoints) -> Iterator[psycopg.Connection[Any]]:
    """A plain connection; the schemas of the tests of backfills are gone afterwards."""
    with psycopg.connect(endpoints.database_url, autocommit=True) as connection:
        yield connection
        for schema in (SCHEMA, f"{SCHEMA}_other"):
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


@pytest.fixture
def upstream(endpoints: Endpoints) -> Iterator[httpx.Client]:
    """A plain client of the upstream's faults; all are off afterwards."""
    headers = {"Authorization": f"Bearer {endpoints.key}"}
    with httpx.Client(base_url=endpoints.source_url, headers=headers, timeout=5, trust_env=False) as client:
        yield client
        client.delete("/faults")
        client.post("/limit", json={})
