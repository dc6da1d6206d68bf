"""What is this machine, and what may be another one."""

import psycopg
import pytest

from tapecheck.target.opening import is_local_database, is_loopback


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")),
        *((host, False) for host in ("192.0.2.1", "fe80::1%eth0", "api.massive.com", "localhost.example.com", "0.0.0.0", "")),
    ],
)
def test_only_loopback_is_this_machine(host: str, here: bool) -> None:
    """A name is never looked up: what is not said to be here is elsewhere."""
    assert is_loopback(host) is here


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("postgresql://u@127.0.0.1:5432/d", True),
        ("postgresql:///d", True),
        ("postgresql://u@/d?host=/run/postgresql", True),
        ("host=localhost dbname=d", True),
        ("postgresql://u@db.example.com/d", False),
        ("postgresql://u@127.0.0.1,db.example.com/d", False),
        ("postgresql://u@localhost/d?hostaddr=192.0.2.1", False),
        ("service=market", False),
    ],
)
def test_a_database_is_here_only_where_every_server_is(url: str, here: bool) -> None:
    """Several hosts, an address beside a name, and a service whose file is not read may all lead elsewhere."""
    assert is_local_database(url) is here


def test_the_environment_of_libpq_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL without a host goes where PGHOST says."""
    monkeypatch.setenv("PGHOST", "db.example.com")
    assert not is_local_database("postgresql:///d")
    with pytest.raises(psycopg.ProgrammingError):
        is_local_database("postgresql://[")
