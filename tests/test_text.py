"""Secrets are found in every encoding, and foreign text stays text."""

import base64
import html
import io
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator

import html5lib
import pytest
from markdown_it import MarkdownIt

from tapecheck import text

KEY = "s3cret/Key+with\"quotes'&<é>"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test knows its own secrets only."""
    monkeypatch.setattr(text, "_known", {})
    monkeypatch.setattr(text, "_places", {})
    yield
    text._pattern.cache_clear()


ENCODINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "percent": lambda key: urllib.parse.quote(key, safe=""),
    "percent, lower": lambda key: urllib.parse.quote(key, safe="").lower(),
    "path": urllib.parse.quote,
    "form": urllib.parse.quote_plus,
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON, as it is": lambda key: json.dumps(key, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda key: json.dumps(json.dumps({"k": key})),
    "HTML": html.escape,
    "HTML in JSON": lambda key: json.dumps(html.escape(key)),
    "JSON in HTML": lambda key: html.escape(json.dumps(key)[1:-1]),
    "Python": repr,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of user and key": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "base64 within": lambda key: base64.urlsafe_b64encode(f"ab{key} and more".encode()).decode(),
    "upper": str.upper,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_secret_is_blanked_in_every_encoding(encoding: str) -> None:
    """Within a word too."""
    text.learn(KEY)
    said = text.redact(f"X{ENCODINGS[encoding](KEY)}, and the rest")
    assert re.fullmatch(r"X.{0,12}\*\*\*.{0,12}, and the rest", said), said
    assert text.redact_bytes(f"<{ENCODINGS[encoding](KEY)}>\udcff".encode("utf-8", "surrogateescape")).endswith(b">\xff")


@pytest.mark.parametrize("secret", ["1", "AAPL", '"', "12345678", "a b"])
def test_a_short_secret_is_blanked_only_as_the_whole_text(secret: str) -> None:
    """In figures, symbols and JSON it cannot be told from what belongs there."""
    text.learn(secret)
    document = json.dumps({"symbol": "AAPL", "n": 12345678, "1": "a b"})
    assert text.redact(document) == document
    assert text.redact(f" {secret}\n") == text.MARK


def test_a_secret_of_a_few_letters_is_blanked_as_a_word_and_never_as_a_key() -> None:
    """`target` may be a password and is a key of every result."""
    text.learn("target")
    assert text.redact('{"target": "the target, targets"} target') == '{"target": "the ***, targets"} ***'


@pytest.mark.parametrize(
    ("secret", "echo", "left"),
    [
        ("postgresql://bob:pa55%20word-long@db.example:5432/market", "no bob (pa55 word-long) at db.example", "bob (***) at db"),
        ("postgresql://bob@db/market?password=pa55word-long&sslmode=x", "password=pa55word-long", "password=***"),
        ("host=db user=bob password='pa55word-long'", "connection to db as bob with pa55word-long", "db as bob with ***"),
        ("postgresql://bob@db/market", "postgresql://bob@db/market", "postgresql://bob@db/market"),
        ("Bearer abcdefgh-12345678", "the token abcdefgh-12345678 is unknown", "the token *** is unknown"),
        ("Basic " + base64.b64encode(b"bob:pa55word-long").decode(), "no pa55word-long for bob", "no *** for bob"),
    ],
)  # fmt: skip
def test_the_secret_part_of_a_secret_is_blanked(secret: str, echo: str, left: str) -> None:
    """Of a database's URL its password, of a header the token; hosts and users stay readable."""
    text.learn(secret)
    assert left in text.redact(echo)


def test_a_place_is_asked_when_a_text_leaves() -> None:
    """Not before: what is set there later is known too."""
    found: list[str | None] = [None]
    text.watch(lambda: found[-1])
    assert text.redact(KEY) == KEY
    found.append(KEY)
    assert text.redact(KEY) == text.MARK


def test_a_stream_writes_no_secret_and_no_terminal_sequence() -> None:
    """Bars, which begin anew on their line, are drawn as before."""
    text.learn(KEY)
    stream = io.StringIO()
    screen = text.Screen(stream)
    print(f"\x1b]0;PWNED\x07 {KEY}\u202e\n\r 50%\t\rpass", file=screen)
    assert stream.getvalue() == "\ufffd]0;PWNED\ufffd ***\ufffd\n\r 50%\t pass\n"


@pytest.mark.parametrize(
    "said",
    [
        "rto_rpo_x", "1. a", "- a", "# a", "a | b", "<b>", "<img src=x onerror=alert(1)>", "&lt;", "\\|", "~~a~~", "![a](b)", "a\nb", "`",
        "1) a", "+ a", "===", "60.4 ms", "p95_ms < 5", "a_ _b_ __c__ *d*", "$x$", "[x](javascript:alert(8))", "> a", "<!-- -->",
    ],
)  # fmt: skip
def test_markdown_leaves_a_text_as_it_is(said: str) -> None:
    """Whatever it looks like, in a list."""
    rendered = MarkdownIt("commonmark").enable("table").enable("strikethrough").render(f"- {text.markdown(said)}")
    (item,) = html5lib.parse(rendered, namespaceHTMLElements=False).iter("li")
    assert (" ".join("".join(item.itertext()).split()), len(item)) == (" ".join(said.split()), 0)
