"""Makes ready-to-send requests of a target's templates and a scenario's parameters. It sends nothing.

Secrets are revealed here, into fields that no `repr` shows.
"""

import itertools
import json
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote

import httpx

from tapecheck.errors import ConfigError, Problem
from tapecheck.load.plan import LoadPlan, Scenario
from tapecheck.load.work import PreparedRequest, Value
from tapecheck.target_file import RequestTemplate, Secret, Target

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"([\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?)?")
PATH_SAFE = ":@!$&'()*+,;=-._~"  # a value never adds a path segment
NOT_YOURS = frozenset({"content-length", "transfer-encoding"})
USER_AGENT = "tapecheck"


def combinations(parameters: Mapping[str, tuple[Value, ...]]) -> list[dict[str, Value]]:
    """Cross parameters in the order of the YAML: the last one changes fastest."""
    return [dict(zip(parameters, values, strict=True)) for values in itertools.product(*parameters.values())]


def prepare_all(plan: LoadPlan, target: Target, *, file: str = "plan") -> dict[str, tuple[PreparedRequest, ...]]:
    """Prepare every scenario's requests, one for each combination of its parameters.

    Request `i` of a scenario, counted from the end of its warm-up, uses combination `i % len(combinations)`.

    Args:
        plan: its scenarios.
        target: opened, so that it has a `base_url`.
        file: what problems of the plan are said to stand in.

    Raises:
        ConfigError: every unknown template, missing or unused parameter, bad header and unset secret at once.
    """
    assert target.base_url is not None, "an opened target has a URL"
    problems: list[Problem] = []
    headers = _headers(target, problems)
    prepared = {}
    for name, scenario in plan.scenarios.items():
        template = target.requests.get(scenario.request)
        found = _problems(name, scenario, template, target, file)
        problems += found
        if template is not None and not found:
            prepared[name] = tuple(_request(template, values, target.base_url, headers) for values in combinations(scenario.parameters))
    if problems:
        raise ConfigError(problems)
    return prepared


def placeholders(template: RequestTemplate) -> list[str]:
    """Return the names in a template's request, body and expected values, each once."""
    texts = [template.request, template.body or "", *(v for v in template.expect.json_.values() if isinstance(v, str))]
    return list(dict.fromkeys(name for text in texts for name in PLACEHOLDER.findall(text)))


def _problems(name: str, scenario: Scenario, template: RequestTemplate | None, target: Target, file: str) -> list[Problem]:
    at = f"scenarios.{name}"
    if template is None:
        known = f"a request of target {target.name}: {', '.join(target.requests)}"
        return [Problem(file=file, key=f"{at}.request", got=repr(scenario.request), allowed=known)]
    needed, given = placeholders(template), list(scenario.parameters)
    names = ", ".join(needed) or "none"
    missing = [
        Problem(file=file, key=f"{at}.parameters", got=f"no {key!r}", allowed=f"every name in {template.request!r}: {names}")
        for key in needed
        if key not in given
    ]
    unused = [
        Problem(file=file, key=f"{at}.parameters.{key}", got="a parameter that the request does not use", allowed=names)
        for key in given
        if key not in needed
    ]
    return missing + unused


def _headers(target: Target, problems: list[Problem]) -> list[tuple[str, str]]:
    """Return the target's headers with secrets revealed, and note what cannot be sent."""
    headers = []
    for name, value in target.headers.items():
        try:
            text = value.reveal() if isinstance(value, Secret) else value
        except ConfigError as error:
            problems += error.problems
            continue
        if wrong := _wrong_header(name, text):
            got, allowed = wrong
            problems.append(Problem(file=f"target {target.name}", key=f"headers.{name}", got=got, allowed=allowed))
        else:
            headers.append((name, text))
    return headers


def _wrong_header(name: str, text: str) -> tuple[str, str] | None:
    """Return (got, allowed) if a header cannot be sent; never its value."""
    if not HEADER_NAME.fullmatch(name) or name.lower() in NOT_YOURS:
        return "this name", f"a header name, but not {' or '.join(sorted(NOT_YOURS))}"
    if not HEADER_VALUE.fullmatch(text):
        return "a value that no header can have", "one line of ASCII without spaces around it"
    return None


def _request(template: RequestTemplate, values: dict[str, Value], base_url: str, headers: list[tuple[str, str]]) -> PreparedRequest:
    url = httpx.URL(base_url.rstrip("/") + _target(template.path, values))
    body = _filled_body(template.body, values)
    request = httpx.Request(template.method, url, headers=_all_headers(url, headers, template, body), content=body or None)
    lines = [f"{template.method} {url.raw_path.decode('ascii')} HTTP/1.1".encode("ascii")]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return PreparedRequest(
        values=values,
        method=template.method,
        url=str(url),
        raw=b"\r\n".join([*lines, b"", body]),
        headers=tuple((name.decode("ascii"), value.decode("ascii")) for name, value in request.headers.raw),
        body=body,
        expected_status=template.expect.status,
        expected_json={key: _filled(value, values) for key, value in template.expect.json_.items()},
    )


def _all_headers(url: httpx.URL, headers: list[tuple[str, str]], template: RequestTemplate, body: bytes) -> list[tuple[str, str]]:
    given = {name.lower() for name, _ in headers}
    defaults = [("Host", url.netloc.decode("ascii")), ("User-Agent", USER_AGENT), ("Accept", "*/*")]
    if template.method == "POST":
        defaults += [("Content-Length", str(len(body)))]
        defaults += [("Content-Type", "application/json")] if _is_json(body) else []
    return [(name, value) for name, value in defaults if name.lower() not in given] + headers


def _target(path: str, values: Mapping[str, Value]) -> str:
    """Fill a template's path and query; each value is encoded so that it stays one path segment or one query value."""
    path, question, query = path.partition("?")
    filled = PLACEHOLDER.sub(lambda match: quote(str(values[match[1]]), safe=PATH_SAFE), path)
    pairs: list[tuple[str, str | int | float | bool | None]] = [
        (_text(key, values), _text(value, values)) for key, value in parse_qsl(query, keep_blank_values=True)
    ]
    return f"{filled}{question}{httpx.QueryParams(pairs)}"


def _text(template: str, values: Mapping[str, Value]) -> str:
    return PLACEHOLDER.sub(lambda match: str(values[match[1]]), template)


def _filled(value: str | int | float | bool, values: Mapping[str, Value]) -> str | int | float | bool:
    if not isinstance(value, str):
        return value
    whole = PLACEHOLDER.fullmatch(value)
    return values[whole[1]] if whole else _text(value, values)  # "{limit}" keeps its type


def _filled_body(template: str | None, values: Mapping[str, Value]) -> bytes:
    """Fill a body; text is escaped as JSON does inside a string."""
    return PLACEHOLDER.sub(lambda match: json.dumps(str(values[match[1]]))[1:-1], template or "").encode()


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True
