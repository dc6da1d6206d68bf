"""Fills in a target's request templates, and reveals its headers. It sends nothing.

Secrets are revealed here, into values that only a request may hold.
"""

import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, quote

import httpx

from tapecheck.errors import ConfigError, Problem
from tapecheck.target.file import RequestTemplate, Secret, Target

Value = str | int | float

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"([\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?)?")
PATH_SAFE = ":@!$&'()*+,;=-._~"  # a value never adds a path segment
NOT_YOURS = frozenset({"content-length", "transfer-encoding"})


def placeholders(template: RequestTemplate) -> list[str]:
    """Return the names in a template's request, body and expected values, each once."""
    texts = [template.request, template.body or "", *(v for v in template.expect.json_.values() if isinstance(v, str))]
    return list(dict.fromkeys(name for text in texts for name in PLACEHOLDER.findall(text)))


def headers(target: Target, problems: list[Problem]) -> list[tuple[str, str]]:
    """Return the target's headers with secrets revealed, and note what cannot be sent, those of its requests included."""
    found = []
    for name, value in target.headers.items():
        try:
            text = value.reveal() if isinstance(value, Secret) else value
        except ConfigError as error:
            problems += error.problems
            continue
        if _can_be_sent(target, f"headers.{name}", name, text, problems):
            found.append((name, text))
    for request, template in target.requests.items():
        for name, text in template.headers.items():
            _can_be_sent(target, f"requests.{request}.headers.{name}", name, text, problems)
    return found


def headers_of(template: RequestTemplate, of_target: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of a request: the target's, but for those that the template has too, and the template's."""
    own = {name.lower() for name in template.headers}
    return [*((name, value) for name, value in of_target if name.lower() not in own), *template.headers.items()]


def _can_be_sent(target: Target, key: str, name: str, text: str, problems: list[Problem]) -> bool:
    """Tell whether a header can be sent, and note why not; never its value."""
    if not HEADER_NAME.fullmatch(name) or name.lower() in NOT_YOURS:
        got, allowed = "this name", f"a header name, but not {' or '.join(sorted(NOT_YOURS))}"
    elif not HEADER_VALUE.fullmatch(text):
        got, allowed = "a value that no header can have", "one line of ASCII without spaces around it"
    else:
        return True
    problems.append(Problem(file=f"target {target.name}", key=key, got=got, allowed=allowed))
    return False


def path(template: RequestTemplate, values: Mapping[str, Value]) -> str:
    """Fill a template's path and query; each value is encoded so that it stays one path segment or one query value."""
    before, question, query = template.path.partition("?")
    filled = PLACEHOLDER.sub(lambda match: quote(str(values[match[1]]), safe=PATH_SAFE), before)
    pairs: list[tuple[str, str | int | float | bool | None]] = [
        (_text(key, values), _text(value, values)) for key, value in parse_qsl(query, keep_blank_values=True)
    ]
    return f"{filled}{question}{httpx.QueryParams(pairs)}"


def body(template: RequestTemplate, values: Mapping[str, Value]) -> bytes:
    """Fill a body; text is escaped as JSON does inside a string."""
    return PLACEHOLDER.sub(lambda match: json.dumps(str(values[match[1]]))[1:-1], template.body or "").encode()


def expected_json(template: RequestTemplate, values: Mapping[str, Value]) -> dict[str, Value]:
    """Fill in what the top-level keys of an answer must be."""
    return {key: _filled(value, values) for key, value in template.expect.json_.items()}


def _text(template: str, values: Mapping[str, Value]) -> str:
    return PLACEHOLDER.sub(lambda match: str(values[match[1]]), template)


def _filled(value: Value, values: Mapping[str, Value]) -> Value:
    if not isinstance(value, str):
        return value
    whole = PLACEHOLDER.fullmatch(value)
    return values[whole[1]] if whole else _text(value, values)  # "{limit}" keeps its type
