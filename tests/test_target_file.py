"""What a target file we ship allows, and where its secrets come from."""

from pathlib import Path

import pytest

from tapecheck import config
from tapecheck.errors import ConfigError
from tapecheck.target import templates
from tapecheck.target.file import RequestTemplate, Secret, Target


@pytest.mark.parametrize("file", sorted((config.CONFIG / "targets").glob("*.yaml")), ids=lambda f: f.name)
def test_every_target_we_ship_is_valid_and_harmless(file: Path) -> None:
    """Traffic beyond this machine and faults are off in every example."""
    target = config.read(Target, file)
    assert not target.allow_remote
    assert not target.allow_drills


def test_a_secret_is_read_late_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the name of a secret is in the configuration; its value is read when it is needed."""
    secret = Secret(env="TAPECHECK_TEST_KEY")
    with pytest.raises(ConfigError, match="export TAPECHECK_TEST_KEY="):
        secret.reveal()
    monkeypatch.setenv("TAPECHECK_TEST_KEY", "s3cr3t")
    assert secret.reveal() == "s3cr3t"
    assert "s3cr3t" not in repr(secret)


def test_a_secret_may_have_several_names_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first variable that is set and not empty counts; a file's line end is no part of the secret."""
    secret = Secret(env=("TAPECHECK_TEST_KEY", "TAPECHECK_TEST_OTHER"))
    with pytest.raises(ConfigError, match="TAPECHECK_TEST_KEY or TAPECHECK_TEST_OTHER: got nothing"):
        secret.reveal()
    monkeypatch.setenv("TAPECHECK_TEST_OTHER", "second")
    monkeypatch.setenv("TAPECHECK_TEST_KEY", "")
    assert secret.reveal() == "second"
    monkeypatch.setenv("TAPECHECK_TEST_KEY", "first")
    assert secret.reveal() == "first"
    (tmp_path / "key").write_text("third\n")
    assert Secret(file=str(tmp_path / "key")).reveal() == "third"
    with pytest.raises(ConfigError, match=r"nowhere: .*No such file or directory"):
        Secret(file="nowhere").reveal()


def test_a_value_stays_one_part_of_a_path() -> None:
    """Whatever is in it: it adds no segment, no query and no fragment, and no pair to a query."""
    template = RequestTemplate(request="GET /bars/{symbol}/range?q={symbol}&limit=5")
    assert (
        templates.path(template, {"symbol": "a/b?c#d&e=%2F é"})
        == "/bars/a%2Fb%3Fc%23d&e=%252F%20%C3%A9/range?q=a%2Fb%3Fc%23d%26e%3D%252F+%C3%A9&limit=5"
    )
