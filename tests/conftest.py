"""What tests of several files stand on: one small sandbox of real processes for the whole run, and a TLS server."""

import os
import shutil
import signal
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import psutil
import psycopg
import pytest
import servers
import trustme
from backfills import SCHEMA
from servers import Server

from tapecheck.backfill.endpoints import Endpoints
from tapecheck.results import TargetInfo
from tapecheck.sandbox import supervision
from tapecheck.sandbox.profile import Home, Profile
from tapecheck.targets import SandboxState

hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("steady")  # the same examples every time, however long one takes
signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell begin with it ignored


SANDBOX = pytest.StashKey[Path]()
GROUP_OF_SANDBOX = "sandbox"


def is_worker() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


def pytest_configure(config: pytest.Config) -> None:
    """Let the first process choose the folder of the one sandbox that all its workers use, whoever of them starts it."""
    if not is_worker():
        base = "/var/tmp" if Path("/var/tmp").is_dir() else None
        config.stash[SANDBOX] = Path(tempfile.mkdtemp(prefix="tct-", dir=base)).resolve()
        os.environ["TAPECHECK_TESTS_SANDBOX"] = str(config.stash[SANDBOX])


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file with one worker, and with one all tests of the shared sandbox, which break it and mend it one after the other."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            shared = "sandbox" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group(GROUP_OF_SANDBOX if shared else item.path.stem))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the sandbox when all workers are done, killed ones too; what is left of it is a failure."""
    if is_worker():
        return
    home = session.config.stash[SANDBOX]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAPECHECK_SANDBOX_HOME", str(home))
        supervision.down()
    left = [process.pid for process in psutil.process_iter(["cmdline"]) if str(home) in " ".join(process.info["cmdline"] or [])]
    sockets = [path for path in home.rglob("*") if path.is_socket()]
    shutil.rmtree(home, ignore_errors=True)
    if left or sockets:
        sys.stderr.write(f"\nthe sandbox of the tests left processes {left} and sockets {sockets}\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def sandbox() -> Iterator[SandboxState]:
    """The sandbox of this run of tests, with six symbols and 30 days; its own lock lets one worker start it and others find it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAPECHECK_SANDBOX_HOME", os.environ["TAPECHECK_TESTS_SANDBOX"])
        state = supervision.up(profile=Profile(symbols=("AAPL", "MSFT", "GOOGL", "SPY", "BTC", "ETH"), days=30))
        supervision.wait_filled(timeout_s=90)
        yield state


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
    with httpx.Client(base_url=endpoints.source_url, headers=headers, timeout=60, trust_env=False) as client:
        yield client
        client.delete("/faults")
        client.post("/limit", json={})
