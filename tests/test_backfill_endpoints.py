"""Where history comes from and goes to: named by the target, refused before anything is sent, and no secret is ever shown."""

from pathlib import Path
from typing import Any

import pytest

from tapecheck import check, config
from tapecheck.backfill import session
from tapecheck.backfill.plan import BackfillPlan, Endpoints, endpoints
from tapecheck.errors import ConfigError, TargetDown
from tapecheck.runs.results import TargetInfo
from tapecheck.sandbox.profile import Home
from tapecheck.target import opening
from tapecheck.target.file import Target
from tapecheck.target.opening import SandboxState
from tapecheck.vendor.wire import Unauthorized

KEY, PASSWORD = "k3y-Zx81", "hunter2-Zx81"
LOCAL = {"source_url": "http://127.0.0.1:8080"}
VENDOR = {"source_url": "https://api.massive.com"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key and a database, both here, and nothing else that a machine may have set."""
    monkeypatch.delenv("MASSIVE_API_KEY", raising=False)
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{PASSWORD}@127.0.0.1/market")


def target(backfill: dict[str, Any] | None, **more: Any) -> Target:
    data = {"name": "mine", "kind": "external", "base_url": "http://127.0.0.1:1", "requests": {"h": "GET /"}, "backfill": backfill}
    return config.validate(Target, data | more, file="t.yaml")


def test_key_and_database_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the variables that is set; neither value is in a representation of what holds it."""
    found = endpoints(target(LOCAL))
    assert (found.source_url, found.key, found.target.base_url) == (LOCAL["source_url"], KEY, LOCAL["source_url"])
    assert found.database_url.endswith("@127.0.0.1/market")
    assert KEY not in repr(found) and PASSWORD not in repr(found)
    monkeypatch.setenv("MASSIVE_API_KEY", "other")
    assert endpoints(target(LOCAL)).key == "other"
    assert endpoints(target(LOCAL | {"api_key": {"env": "POLYGON_API_KEY"}})).key == KEY
    assert endpoints(target(LOCAL | {"database_url": "postgresql://me@127.0.0.1/d"})).database_url == "postgresql://me@127.0.0.1/d"


REFUSED = [
    (None, {}, ["mine: backfill: got nothing; allowed: backfill: {source_url: https://"]),
    (LOCAL, {"POLYGON_API_KEY": "", "DATABASE_URL": ""}, ["DATABASE_URL: got nothing", "export DATABASE_URL=..."]),
    (LOCAL | {"api_key": {"file": "/no/such"}}, {}, ["/no/such: (file): got No such file or directory"]),
    (VENDOR, {}, ["allow_remote: got false, while backfill.source_url leads to api.massive.com, beyond this machine"]),
    (LOCAL, {"DATABASE_URL": f"postgresql://me:{PASSWORD}@db.example.com/d"}, ["the database of DATABASE_URL may be on another machine"]),
    (LOCAL, {"POLYGON_API_KEY": "schlüssel"}, ["MASSIVE_API_KEY or POLYGON_API_KEY: got a key that no header can carry"]),
    (LOCAL, {"POLYGON_API_KEY": "two words"}, ["got a key that no header can carry; allowed: printable ASCII without spaces"]),
    (LOCAL, {"DATABASE_URL": f"postgresql://me:{PASSWORD}@["}, ["DATABASE_URL: got a URL that cannot be read"]),
]


@pytest.mark.parametrize(("backfill", "variables", "said"), REFUSED, ids=[said[0][:40] for _, _, said in REFUSED])
def test_what_cannot_be_used_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, backfill: dict[str, Any] | None, variables: dict[str, str], said: list[str]
) -> None:
    """Everything at once, as an error of the configuration, before anything is sent, and without a secret."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        endpoints(target(backfill))
    assert all(text in str(caught.value) for text in said)
    assert KEY not in str(caught.value) and PASSWORD not in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(("api_key", "remedy"), [({"env": ["A_KEY", "B_KEY"]}, "export A_KEY=... or B_KEY=..."), (None, "write it to {}")])
def test_a_key_that_is_not_there_is_no_fault_of_the_configuration(tmp_path: Path, api_key: dict[str, Any] | None, remedy: str) -> None:
    """An unset variable and an empty file fail each job, which says what to do; the rest of the target is good."""
    (tmp_path / "key").touch()
    found = endpoints(target(LOCAL | {"api_key": api_key or {"file": str(tmp_path / "key")}}))
    with pytest.raises(Unauthorized) as caught:
        found.check_key()
    assert (found.key, str(caught.value)) == ("", f"no API key: {remedy.format(tmp_path / 'key')}")


def test_another_machine_is_used_where_the_target_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`allow_remote: true` is for source and database alike."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example.com/d")
    found = endpoints(target(VENDOR, allow_remote=True))
    assert (found.source_url, found.database_url) == ("https://api.massive.com", "postgresql://me@db.example.com/d")


def test_an_external_target_is_refused_before_a_notebook_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing database is found with the other problems of the configuration; to analyse a recorded run none is needed."""
    monkeypatch.delenv("DATABASE_URL")
    file = tmp_path / "t.yaml"
    file.write_text(
        "name: mine\nkind: external\nbase_url: http://127.0.0.1:1\nrequests: {h: GET /}\nbackfill: {source_url: http://127.0.0.1:1}\n"
    )
    with pytest.raises(ConfigError) as caught:
        check.before_traffic({"backfill": {"target": str(file), "profile": "huge"}})
    assert {problem.key for problem in caught.value.problems} == {"DATABASE_URL", "profile"}
    assert check.before_traffic({"backfill": {"target": str(file), "run": "somewhere"}}).name == "mine"


def test_the_sandbox_names_its_upstream_key_and_database(sandbox: SandboxState) -> None:
    """The shipped target needs none of it in its file; the state holds where the key is, and never the key."""
    found = endpoints(opening.open_target("config/targets/sandbox.yaml"))
    assert (found.source_url, found.database_url) == (sandbox.upstream_url, sandbox.database_url)
    assert found.key == Home().secret()
    assert Home().secret() not in SandboxState.file().read_text()


def test_only_a_sandbox_puts_its_vendor_at_a_distance(sandbox: SandboxState) -> None:
    """Its URL says so; a vendor of an external target is where it is."""
    opened = opening.open_target("config/targets/sandbox.yaml")
    assert endpoints(opening.at_distance(opened, 50)).source_url == f"{sandbox.upstream_url}/distant/50"
    assert opening.at_distance(opened, 0) == opened
    external = opened.model_copy(update={"kind": "external"})
    assert opening.at_distance(external, 50) == external


def test_a_source_that_no_network_reaches_is_one_clear_error() -> None:
    """As the vendor is on a machine without internet: no data, which is exit code 2, with the host's name and the reason."""
    ends = Endpoints(
        source_url="https://no-such-host.invalid",
        key=KEY,
        database_url=f"postgresql://me:{PASSWORD}@127.0.0.1:9/d",
        target=TargetInfo(name="vendor", kind="external", base_url="https://no-such-host.invalid"),
    )
    plan = BackfillPlan.model_validate({"symbols": ["AAPL"], "timeframes": ["1d"], "history": {"days": 2}})
    with pytest.raises(
        TargetDown, match=r"the source no-such-host\.invalid does not answer \([^<>]+ [^<>]+\); nothing was fetched"
    ) as caught:
        session.run(plan, ends)
    assert caught.value.exit_code == 2
    assert KEY not in str(caught.value) and PASSWORD not in str(caught.value)
