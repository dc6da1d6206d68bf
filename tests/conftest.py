"""What tests of several files stand on: a small sandbox of real processes, and a TLS server."""

import contextlib
import gc
import os
import shutil
import signal
import ssl
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign_settings
import httpx
import hypothesis
import psutil
import psycopg
import pytest
import servers
import trustme
from backfills import SCHEMA
from nbval.plugin import IPyNbCell
from servers import Server
from xdist.scheduler import LoadScopeScheduling

from tapecheck import lockfiles
from tapecheck.backfill.plan import Endpoints
from tapecheck.runs.results import TargetInfo
from tapecheck.sandbox import supervision
from tapecheck.sandbox.profile import Home, Profile
from tapecheck.target.opening import SandboxState

hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("steady")  # the same examples every time, however long one takes
supervision.START_S = 200.0  # a start is judged by what comes of it, however busy the machine is
signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell begin with it ignored


SANDBOXES = pytest.StashKey[Path]()
PREFIX = "tct-"
FOLDER = "TAPECHECK_TESTS_SANDBOXES"  # in the environment of every process that the tests start
USE_A_SANDBOX = {  # what is under one name breaks its sandbox and mends it, file after file; the names are independent, and as long
    "service": ("test_foreign", "test_live", "test_compare_session", "test_sandbox_api", "test_sandbox_openapi", "test_observe"),
    "drills": ("test_recovery_backups", "test_recovery_drill", "test_recovery_freshness", "test_recovery_loss", "test_recovery_planting"),
    "workers": (
        "test_backfill_sharding", "test_backfill_faults", "test_sandbox_filling", "test_benchmarks_backfill", "test_vendor_source",
        "test_target_mapping", "test_proposal",
    ),
    "backfill": (
        "test_backfill_pipeline", "test_backfill_audit", "test_backfill_resume", "test_backfill_schema",
        "test_backfill_sink", "test_database", "test_backfill_answers",
    ),
}  # fmt: skip
OF_A_SANDBOX = {file: name for name, files in USE_A_SANDBOX.items() for file in files}
TAKE_LONG = (
    "test_sandbox_users", "test_batches", "test_explore", "test_reports", "test_sandbox_supervision", "test_load_session", "test_resources",
    "test_conftest", "test_recovery_actions", "test_runs_batch", "test_secrets", "test_charts_load", "test_load_findings",
    "test_load_imports", "test_sockets", "test_charts_compare", "test_load_engine", "test_notebooks", "test_load_capacity",
)  # fmt: skip


def is_worker() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


def pytest_configure(config: pytest.Config) -> None:
    """Let the first process choose the folder of the sandboxes, which it stops when all its workers are done, SIGTERM or not."""
    config.addinivalue_line("markers", "interrupts_itself: a signal may leave a file or connection unclosed, anywhere in others' code")
    if not is_worker():
        base = Path("/var/tmp") if Path("/var/tmp").is_dir() else Path(tempfile.gettempdir())
        for left in base.glob(f"{PREFIX}*"):
            if (found := lockfiles.holders(left)) and not any(one.is_there for one in found):
                shutil.rmtree(left, ignore_errors=True)  # of tests that were killed; their sandboxes have ended with them
        config.stash[SANDBOXES] = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base)).resolve()
        config.stash[SANDBOXES].chmod(0o711)  # a database that root starts runs as another user
        lockfiles.hold(config.stash[SANDBOXES])
        os.environ[FOLDER] = str(config.stash[SANDBOXES])
        for end in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(end) is signal.SIG_DFL:  # nohup ignores the second
                signal.signal(end, signal.default_int_handler)


class ByFile(LoadScopeScheduling):
    """Deals out files, and those that use one sandbox as one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return OF_A_SANDBOX.get(Path(file).stem, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; a file that uses a sandbox without being named above is an error."""
    for item in items:
        if item.get_closest_marker("interrupts_itself"):
            for warning in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{warning}"))
        if "sandbox" in getattr(item, "fixturenames", ()) and item.path.stem not in OF_A_SANDBOX:
            raise pytest.UsageError(f"{item.path.name} uses a sandbox: name it in USE_A_SANDBOX of {__file__}")
    order = {name: at for at, name in enumerate((*OF_A_SANDBOX, *TAKE_LONG))}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Run the golden notebooks as a user whose settings are not ours, and compare their pictures too, byte by byte."""
    if not isinstance(item, IPyNbCell) or item.parent.kernel is not None:
        return (yield)
    item.parent.skip_compare = tuple(kind for kind in item.parent.skip_compare if kind != "image/png")
    with foreign_settings.applied(foreign_settings.written(Path(tempfile.mkdtemp(dir=os.environ[FOLDER])))):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Have what an interrupt left unclosed found within its test, where that is no error."""
    if item.get_closest_marker("interrupts_itself"):
        gc.collect()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop every sandbox when all workers are done, killed ones too; what is left of one is a failure."""
    if is_worker():
        return
    folder = session.config.stash[SANDBOXES]
    for home in folder.iterdir():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TAPECHECK_SANDBOX_HOME", str(home))
            supervision.down(force=True)
    left = [process.pid for process in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(process.info["cmdline"] or [])]
    sockets = [path for path in folder.rglob("*") if path.is_socket()]
    for process in psutil.process_iter(["environ", "ppid"]):  # after an interrupt: what the tests of killed workers had started
        if (process.info["environ"] or {}).get(FOLDER) == str(folder) and os.getpid() not in (process.pid, process.info["ppid"]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)
    if left or sockets:
        sys.stderr.write(f"\nthe sandboxes of the tests left processes {left} and sockets {sockets}\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def sandbox(worker_id: str) -> Iterator[SandboxState]:
    """The sandbox of this worker, with six symbols and 30 days; it ends with the worker, however that ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAPECHECK_SANDBOX_HOME", str(Path(os.environ[FOLDER]) / worker_id))
        lockfiles.hold(Home().users)
        profile = Profile(symbols=("AAPL", "MSFT", "GOOGL", "SPY", "BTC", "ETH"), days=30)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of the reaper, which is meant to be left behind
            state = supervision.up(profile=profile, until_unused=True)
        supervision.wait_filled(timeout_s=200)
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
    with httpx.Client(base_url=endpoints.source_url, headers=headers, timeout=60, trust_env=False, verify=False) as client:
        yield client
        client.delete("/faults")
        client.post("/limit", json={})
