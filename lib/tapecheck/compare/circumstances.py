"""Says what else than the change lies between two recorded runs: target, machine, versions, configuration. It opens no file."""

from collections.abc import Iterator, Mapping
from typing import Any

from tapecheck.compare.variants import AFTER, BEFORE, Side

NO_CONFIGURATION = frozenset({"run", "out"})  # parameters of a notebook that change nothing that is measured
NOT_RECORDED = "not recorded"
Json = dict[str, Any]  # of a result.json, which was checked by its schema when it was read


def differs(before: Json, after: Json, pairs: Mapping[str, Mapping[Side, str]]) -> Iterator[str]:
    """Yield each circumstance that is not the same in both results, as `what: before, after`.

    Another commit, and so another version of tapecheck itself, is what two runs are mostly compared for.

    Args:
        pairs: what is compared, by the name that it has on each side.
    """
    yield from _targets(before["target"], after["target"])
    tools = [(result.get("tool") or {}).get("name", "") for result in (before, after)]
    yield from _unlike("measured by", *(tool or "this workbook" for tool in tools))
    if any(tools):  # whose file says neither where it ran nor what it was told to do
        yield from (f"machine: {tool} does not say on which it ran" for tool in sorted({*tools} - {""}))
        return
    yield from _environments(before["environment"], after["environment"])
    for side, result in ((BEFORE, before), (AFTER, after)):
        yield from (f"{side} ran beside another measurement: {one['measured']}" for one in result.get("beside") or ())
    yield from _configurations(before, after)
    if before["validation"] == "load":
        yield from _executors(before["scenarios"], after["scenarios"], pairs)


def _targets(before: Json, after: Json) -> Iterator[str]:
    for name in ("name", "kind"):
        yield from _unlike(f"target {name}", before[name], after[name])
    if before["kind"] == after["kind"] == "external":  # a sandbox has another port after every start
        yield from _unlike("target base_url", *(target["base_url"] or NOT_RECORDED for target in (before, after)))


def _environments(before: Json, after: Json) -> Iterator[str]:
    for name in ("host", "system", "cores", "memory_mb", "python"):
        yield from _unlike(name, before[name], after[name])
    for name in sorted((before["versions"].keys() | after["versions"].keys()) - {"tapecheck"}):
        yield from _unlike(name, before["versions"].get(name), after["versions"].get(name))


def _configurations(before: Json, after: Json) -> Iterator[str]:
    """Compare what the plan files said, and the parameters; a run of before there were digests does not say what its plan was."""
    yield from _unlike("plan digest", *(result.get("plan_digest") or NOT_RECORDED for result in (before, after)))
    given, then = before["parameters"], after["parameters"]
    for name in sorted((given.keys() | then.keys()) - NO_CONFIGURATION):
        yield from _unlike(f"parameter {name}", given.get(name), then.get(name))


def _executors(before: Json, after: Json, pairs: Mapping[str, Mapping[Side, str]]) -> Iterator[str]:
    for name, own in pairs.items():
        yield from _unlike(f"executor of {name}", before[own[BEFORE]]["executor"], after[own[AFTER]]["executor"])


def _unlike(what: str, before: object, after: object) -> Iterator[str]:
    if before != after:
        yield f"{what}: {before} before, {after} after"
