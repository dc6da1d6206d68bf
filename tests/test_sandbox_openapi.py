"""The sandbox's APIs keep what their OpenAPI says, whatever is sent that it allows or forbids."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests
import schemathesis
import servers
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from tapecheck.sandbox.profile import Home, Ports
from tapecheck.target.opening import SandboxState

CASES = 6  # of each operation, right and wrong ones each
UNASKED = {"positive_data_acceptance", "missing_required_header", "ignored_auth", "use_after_free", "ensure_resource_availability"}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """An upstream of its own, whose faults disturb nobody: its URL and its key."""
    home, port = Home(tmp_path_factory.mktemp("home")), servers.free_port()
    home.ports.write_text(Ports(database=1, upstream=port, scheduler=1, api=1).model_dump_json())
    (home.folder / "supervisord.pid").write_text(str(os.getpid()))
    command = [sys.executable, "-m", "tapecheck.sandbox.service", "upstream", str(home.folder)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        servers.wait_for_port(port)
        yield f"http://127.0.0.1:{port}", home.secret()
        process.terminate()


def attack(url: str, key: str) -> list[str]:
    """Send bounded numbers of right and wrong requests to each operation; return which operations there are."""
    session = requests.Session()
    session.trust_env = False
    schema = schemathesis.openapi.from_dict(session.get(f"{url}/openapi.json", timeout=30).json())
    checks, names = [check for check in CHECKS.get_all() if check.__name__ not in UNASKED], []
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(max_examples=CASES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: schemathesis.Case) -> None:
                case.headers.setdefault("Authorization", f"Bearer {key}")
                answer = case.call(base_url=url, session=session, timeout=60)
                case.validate_response(answer, checks=checks)

            with contextlib.suppress(Unsatisfiable):  # where there is nothing that could be wrong
                send()
        names.append(operation.label)
    return names


def test_the_vendor_answers_as_it_says(upstream: tuple[str, str]) -> None:
    """No 500, and no status, header or body that its OpenAPI does not have."""
    assert len(attack(*upstream)) == 8


def test_the_api_answers_as_it_says(sandbox: SandboxState) -> None:
    """Likewise, by its database and its cache."""
    assert len(attack(sandbox.base_url, Home().secret())) == 6


def test_the_scheduler_answers_as_it_says(sandbox: SandboxState) -> None:
    """Likewise."""
    ports = json.loads(Home().ports.read_bytes())
    assert len(attack(f"http://127.0.0.1:{ports['scheduler']}", Home().secret())) == 2
