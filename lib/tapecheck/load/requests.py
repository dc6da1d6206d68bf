"""Makes ready-to-send requests of a target's templates and a scenario's parameters. It sends nothing.

Secrets are in fields that no `repr` shows.
"""

import itertools
import json
from collections.abc import Mapping

import httpx

from tapecheck.errors import ConfigError, Problem
from tapecheck.load.engine.work import PreparedRequest, Value
from tapecheck.load.plan import LoadPlan, Scenario
from tapecheck.target import templates
from tapecheck.target.file import RequestTemplate, Target

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
    headers = templates.headers(target, problems)
    prepared = {}
    for name, scenario in plan.scenarios.items():
        template = target.requests.get(scenario.request)
        problems += _problems(name, scenario, template, target, file)
        if template is not None and not problems:
            own = templates.headers_of(template, headers)
            prepared[name] = tuple(_request(template, values, target.base_url, own) for values in combinations(scenario.parameters))
    if problems:
        raise ConfigError(problems)
    return prepared


def _problems(name: str, scenario: Scenario, template: RequestTemplate | None, target: Target, file: str) -> list[Problem]:
    at = f"scenarios.{name}"
    if template is None:
        known = f"a request of target {target.name}: {', '.join(target.requests)}"
        return [Problem(file=file, key=f"{at}.request", got=repr(scenario.request), allowed=known)]
    needed, given = templates.placeholders(template), list(scenario.parameters)
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


def _request(template: RequestTemplate, values: dict[str, Value], base_url: str, headers: list[tuple[str, str]]) -> PreparedRequest:
    url = httpx.URL(base_url.rstrip("/") + templates.path(template, values))
    body = templates.body(template, values)
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
        expected_json=templates.expected_json(template, values),
    )


def _all_headers(url: httpx.URL, headers: list[tuple[str, str]], template: RequestTemplate, body: bytes) -> list[tuple[str, str]]:
    given = {name.lower() for name, _ in headers}
    defaults = [("Host", url.netloc.decode("ascii")), ("User-Agent", USER_AGENT), ("Accept", "*/*")]
    if template.method == "POST":
        defaults += [("Content-Length", str(len(body)))]
        defaults += [("Content-Type", "application/json")] if _is_json(body) else []
    return [(name, value) for name, value in defaults if name.lower() not in given] + headers


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True
