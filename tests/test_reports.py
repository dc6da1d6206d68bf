"""Each report is read by what it is made for, and what stands in a run stays text in all of them.

The pages are parsed strictly by html5lib everywhere, and shown, measured and printed by Chromium where there is one;
where there is none, each of those tests is listed as skipped, with what was not checked.
"""

import gc
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import html5lib
import nbformat
import pandas as pd
import pytest
import servers
from browsers import DARK, NAMES, Browser, installed
from junitparser import JUnitXml
from markdown_it import MarkdownIt
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from recorded_runs import check, checks, many, put, set_at
from servers import Server

from tapecheck.reports import markdown, overview, pages
from tapecheck.runs import folders, results
from tapecheck.runs.page import report
from tapecheck.verdict import NEXT, Verdict, headline

PAGES = ["index.html", "executive.html"]
HOSTILE = "<script>alert('x')</script> a|b ]]> `c` **d** [e](http://f) @g & \"h\" \x1b[31m \x00 é\n# i"
SEEN = "<script>alert('x')</script> a|b ]]> `c` **d** [e](http://f) @g & \"h\""  # of it on one line, up to what no format can say


SCRIPT = (Path(pages.__file__).parent / "templates" / "index.js").read_text().strip()
FIVE = checks(*(check(verdict, name=verdict) for verdict in Verdict))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """An installed browser; without one a test is skipped and says what was not checked, and nothing stands in for it."""
    program = installed()
    if program is None:
        pytest.skip(f"no browser ({', '.join(NAMES)}) is installed: html5lib parsed this page, but nobody showed, measured or printed it")
    return Browser(program=program, folder=tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of a run whose every text is hostile."""
    out = tmp_path_factory.mktemp("hostile")

    def change(result: Any) -> None:
        finding = {"name": HOSTILE, "finding": HOSTILE, "evidence": {HOSTILE: HOSTILE}, "action": HOSTILE}
        result.update(
            checks=[check("fail", HOSTILE, HOSTILE, reason=HOSTILE)], verdict="fail", headline=HOSTILE, recommendations=[finding],
        )  # fmt: skip
        result["target"].update(name=HOSTILE, base_url=HOSTILE)
        result["environment"].update(host=HOSTILE)

    put(out, "load", 0, change)
    pages.write(out)
    return out


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The reports of a load run with each verdict once, and of a backfill that passed."""
    put(tmp_path, "load", 0, FIVE)
    put(tmp_path, "backfill", 1)
    pages.write(tmp_path)
    return tmp_path


# ---- what they are made from ----


def test_the_last_whole_run_stands_for_its_validation(tmp_path: Path) -> None:
    """An analysis of an older run, a part of a plan and a definition stand beside it, under their own names, as long as they are newest."""
    put(tmp_path, "rto_rpo", 10)
    whole = put(tmp_path, "rto_rpo", 20, checks(check("fail")))
    for minute, name, change in (
        (30, "rto_rpo (re-analysis)", {"started_at": "2026-11-01T00:10:00Z", "reanalysis_of": "a"}),
        (40, "rto_rpo (definition only)", {"scope": "definition only", "parameters": {"drills": "none"}}),
        (50, "rto_rpo (drills: a)", {"scope": None, "parameters": {"drills": "a"}}),
    ):
        put(tmp_path, "rto_rpo", minute, lambda r, change=change: r.update(change))
        found = overview.read(tmp_path)
        first, part = found.standings
        assert first.entry is not None and (first.entry.folder, first.name, first.verdict) == (whole, "rto_rpo", Verdict.FAIL)
        assert (part.name, part.verdict, part.whole) == (name, Verdict.PASS, False)
        assert found.verdict == Verdict.FAIL, "of what is on the page"
        pages.write(tmp_path)
        assert [suite.name for suite in JUnitXml.fromfile(str(tmp_path / "junit.xml"))] == ["rto_rpo", name]
        assert len(samples((tmp_path / "metrics.txt").read_text(), "tapecheck_check_value")) == 1, "the series are of the whole"
    put(tmp_path, "rto_rpo", 60)
    (standing,) = overview.read(tmp_path).standings
    assert (standing.whole, standing.verdict, standing.trend[1:2]) == (True, Verdict.PASS, standing.trend[-1:])


def test_the_list_of_the_command_line_has_what_tells_runs_apart(tmp_path: Path) -> None:
    """A header, the date, the verdict, the scope and the main figure of each, the newest first; what cannot be read says why."""
    put(tmp_path, "load", 0, lambda r: r.update(scope="1 of 7 scenarios"))
    put(tmp_path, "backfill", 1)
    (tmp_path / "load" / "20261101T000200Z-dead").mkdir()
    rows = [re.split("  +", line) for line in overview.listing(overview.read(tmp_path)).splitlines()]
    assert rows[0] == ["run", "started (UTC)", "verdict", "target", "main figure"]
    assert rows[1] == ["load/20261101T000200Z-dead", "no result.json"]
    assert rows[2] == ["backfill/20261101T000100Z-0001", "2026-11-01 00:01:00", "pass", "sandbox", "throughput 54,076 records/s"]
    assert rows[3][1:4] == ["2026-11-01 00:00:00", "not proven (1 of 7 scenarios)", "sandbox"] and rows[3][4].startswith("capacity ")


def test_where_only_a_part_was_run_it_says_so(tmp_path: Path) -> None:
    """No page says that a validation passed of which one scenario was sent."""
    put(tmp_path, "load", 0, lambda r: r.update(scope="1 of 7 scenarios"))
    pages.write(tmp_path)
    for name in PAGES:
        assert "Load, 1 of 7 scenarios" in words(strictly((tmp_path / name).read_text()).find("body"))
    assert "load (1 of 7 scenarios)" in words(rendered(tmp_path / "summary.md"))
    assert samples((tmp_path / "metrics.txt").read_text(), "tapecheck_check_value")


def test_a_part_stays_beside_a_newer_one_of_other_scenarios(tmp_path: Path) -> None:
    """What is not proven goes only when all that was chosen then is measured anew; and a part never says that every objective is met."""

    def part(minute: int, scope: str, scenarios: str, verdict: str) -> None:
        given = {"scope": scope, "parameters": {"scenarios": scenarios}}
        put(tmp_path, "load", minute, lambda r: (checks(check(verdict), verdict=verdict)(r), r.update(given)))

    part(0, "3 of 7 scenarios", "a, b,c", "not_proven")
    part(1, "2 of 7 scenarios", "d,e", "pass")
    part(2, "2 of 7 scenarios", "f,g", "pass")
    found = overview.read(tmp_path)
    named = ["load (2 of 7 scenarios: f, g)", "load (2 of 7 scenarios: d, e)", "load (3 of 7 scenarios)"]
    assert [one.name for one in found.standings] == named and found.verdict == Verdict.NOT_PROVEN
    for text in (words(strictly(pages.executive(found)).find("body")), markdown.text(found).replace("\\", "")):
        assert "every objective is met" not in text and "every objective of these is met (2 of 7 scenarios: d, e)" in text
    part(3, "4 of 7 scenarios", "a,b,c,d", "pass")
    assert [one.name for one in overview.read(tmp_path).standings] == ["load (4 of 7 scenarios)", *named[:2]]


def test_a_chart_without_a_sweep_is_not_shown_and_a_capacity_says_how_far_it_is_proven(tmp_path: Path) -> None:
    """As the terminal does; and another chart of the run takes its place."""
    swept = put(tmp_path, "load", 0, lambda r: r["capacity"].update(knee_rps=1682.0, proven_rps=None))
    put(tmp_path, "load", 1, lambda r: r["capacity"].update(knee_rps=1682.0, proven_rps=1414.0))
    without = put(tmp_path, "load", 2, lambda r: r.update(capacity=None))
    for folder, name in ((swept, "capacity"), (without, "capacity"), (without, "percentiles")):
        (folder / f"{name}.png").touch()
    last, before, first = overview.read(tmp_path).entries
    assert (first.picture, last.picture) == (swept / "capacity.png", without / "percentiles.png")
    (without / "percentiles.png").unlink()
    assert overview.read(tmp_path).entries[0].picture is None, "no empty one"
    assert (first.in_words, before.in_words) == ("1,682 requests/s (not proven)", "1,682 requests/s (proven to 1,414)")
    index = words(strictly(pages.index(overview.read(tmp_path), ())).find("body"))
    assert index.count("1,682 requests/s (not proven)") == 1 and last.in_words.endswith(" ms")
    assert "capacity 1,682 requests/s (not proven)" in overview.listing(overview.read(tmp_path))


def test_where_no_whole_run_is_that_of_a_profile_stands(tmp_path: Path) -> None:
    """Under its own name; a definition and a single drill after it stand beside it, and a whole run takes its place."""
    profile = {"scope": "15 of 24 drills", "parameters": {"profile": "once", "drills": "all"}}
    once = put(tmp_path, "rto_rpo", 0, lambda r: (checks(check("fail"))(r), r.update(profile)))
    put(tmp_path, "rto_rpo", 1, lambda r: r.update(scope="definition only", parameters={"drills": "none"}))
    found = overview.read(tmp_path).standings
    assert [one.name for one in found] == ["rto_rpo (15 of 24 drills)", "rto_rpo (definition only)"]
    assert found[0].entry is not None and found[0].entry.folder == once
    pages.write(tmp_path)
    for name in PAGES:
        assert "Recovery, 15 of 24 drills" in words(strictly((tmp_path / name).read_text()).find("body"))
    assert len(samples((tmp_path / "metrics.txt").read_text(), "tapecheck_check_value")) == 1, "the series are of the fuller one"
    put(tmp_path, "rto_rpo", 2)
    assert [one.name for one in overview.read(tmp_path).standings] == ["rto_rpo"]


def test_each_target_stands_for_itself(tmp_path: Path) -> None:
    """The newest first; the verdict is that of all that is shown, and what failed for one target is not hidden by another's pass."""
    put(tmp_path, "load", 0, FIVE)
    put(tmp_path, "load", 1, lambda r: (checks(check("pass"), verdict="pass")(r), r["target"].update(name="staging")))
    found = overview.read(tmp_path)
    assert [(one.name, one.verdict) for one in found.standings] == [("load", Verdict.PASS), ("load (sandbox)", Verdict.FAIL)]
    assert found.verdict == Verdict.FAIL


def test_the_trend_is_of_runs_alike(tmp_path: Path) -> None:
    """Oldest first, the last run at its end, another host's and another profile's left out."""
    for i, value in enumerate((5, 7, 6)):
        put(tmp_path, "backfill", i, set_at("totals.records_per_s", value))
    put(tmp_path, "backfill", -1, set_at("totals.records_per_s", 9, host="elsewhere"))
    put(tmp_path, "backfill", -2, lambda r: r["parameters"].update(profile="small"))
    (standing,) = overview.read(tmp_path).standings
    assert standing.trend == (5, 7, 6)


def test_an_attempt_since_then_is_told_everywhere(written: Path) -> None:
    """A notebook that ended early, or a run that cannot be read, after the last run: no report says only that all was well."""
    (written / "unfinished" / "backfill-20261102T000000Z-aaaa").mkdir(parents=True)
    (written / "rto_rpo" / "20261102T000000Z-bbbb").mkdir(parents=True)
    (written / "unfinished" / "backfill-20261001T000000Z-old").mkdir(parents=True)
    pages.write(written)
    for name in (pages.INDEX, "executive.html", "summary.md", "junit.xml"):
        text = (written / name).read_text().replace("\\", "")
        assert "20261102T000000Z-aaaa" in text, name
        assert "20261102T000000Z-bbbb" in text, name
        assert "20261001T000000Z-old" not in text, "it was before the last run"
    assert overview.read(written).verdict == Verdict.FAIL
    shutil.rmtree(written / "load")
    found = overview.read(written)
    assert found.verdict == Verdict.NO_DATA, "a pass that a later attempt left no result after is none"
    assert found.standings[0].verdict == Verdict.PASS, "the run itself keeps its verdict"


def test_a_text_that_is_no_text_makes_a_run_unreadable(tmp_path: Path) -> None:
    """Half a surrogate pair is valid JSON and can be written to no file."""
    put(tmp_path, "load", 0, lambda r: r["target"].update(name="\ud800"))
    (run,) = folders.each(tmp_path)
    assert run.problem is not None
    assert "unreadable" in run.problem
    assert "unreadable result.json" in pages.write(tmp_path).read_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (0.0, "0"), (5, "5"), (0.12345, "0.123"), (54076.4, "54,076"), (1500, "1,500"), ("x", "x"), (float("nan"), "—")],
)
def test_a_figure_is_short(value: Any, text: str) -> None:
    """No exponents, no false digits."""
    assert overview.number(value) == text


# ---- JUnit ----


def test_junit_has_every_check_with_its_verdict(written: Path) -> None:
    """Read by junitparser: a miss is a failure, nothing trustworthy an error, what only needs more samples is skipped."""
    suites = {suite.name: suite for suite in JUnitXml.fromfile(str(written / "junit.xml"))}
    cases = {case.classname: case for case in suites["load"]}
    kinds = {name: [type(one).__name__ for one in case.result] for name, case in cases.items()}
    assert kinds == {
        "load.pass": [], "load.fail": ["Failure"], "load.invalid": ["Error"], "load.no_data": ["Error"], "load.not_proven": ["Skipped"],
    }  # fmt: skip
    assert cases["load.fail"].name == "p95_ms < 1000"
    assert (cases["load.fail"].result[0].message, cases["load.fail"].result[0].text) == ("why", "value 5, 95 % bound —, n = 9")
    load = suites["load"]
    assert (load.tests, load.failures, load.errors, load.skipped) == (5, 1, 2, 1)
    assert {p.name for p in load.properties()} == {"run", "target", "base_url"}
    assert suites["backfill"].failures == suites["backfill"].errors == 0


@pytest.mark.parametrize(
    "reason", ["its 95 % interval reaches to both sides of the smallest effect", "the session drifted: machine_s moved"]
)
def test_a_fix_that_is_not_proven_turns_a_pipeline_red(tmp_path: Path, reason: str) -> None:
    """It is no miss that needs more samples: a ratio of 1.003 is none of at most 0.9, and of a drifted session nobody knows."""
    open_ = check("not_proven", "bulk_copy", "duration_s ratio <= 0.9", value=1.003, reason=reason)
    put(tmp_path, "compare", 0, checks(open_, verdict="not_proven"))
    pages.write(tmp_path)
    (suite,) = JUnitXml.fromfile(str(tmp_path / "junit.xml"))
    assert (suite.errors, suite.skipped, suite.failures) == (1, 0, 0)
    (error,) = next(iter(suite)).result
    assert (error.type, error.message) == ("not_proven", reason)


# ---- OpenMetrics ----


def samples(text: str, name: str) -> dict[frozenset[tuple[str, str]], float]:
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == name]
    return {frozenset(sample.labels.items()): sample.value for sample in found}


def test_prometheus_reads_the_metrics(tmp_path: Path) -> None:
    """Each check has its value and its verdict under five labels; what has no value has no sample, so that no 0 stands for it."""
    put(tmp_path, "load", 0, checks(check("fail", value=7.5), check("no_data", objective="p99_ms < 1", value=None)))
    pages.write(tmp_path)
    text = (tmp_path / "metrics.txt").read_text()
    labels = frozenset({"validation": "load", "name": "steady_rate", "objective": "p95_ms < 1000", "target": "sandbox", "nth": "1"}.items())
    assert samples(text, "tapecheck_check_value") == {labels: 7.5}
    verdicts = samples(text, "tapecheck_check_verdict")
    assert len(verdicts) == 10
    assert {dict(key)["verdict"] for key, value in verdicts.items() if value and key >= labels} == {"fail"}
    started = samples(text, "tapecheck_run_started_timestamp_seconds")
    assert {dict(key)["validation"]: value for key, value in started.items()} == {"load": 1793491200}
    assert {f.type for f in text_string_to_metric_families(text)} == {"gauge"}


def test_a_check_that_is_there_twice_is_two_series(tmp_path: Path) -> None:
    """None is dropped for the other, and none is there twice, which Prometheus refuses."""
    put(tmp_path, "load", 0, checks(check("fail", value=1), check("pass", value=2), check("pass", objective="p99_ms < 9", value=3)))
    pages.write(tmp_path)
    text = (tmp_path / "metrics.txt").read_text()
    found = samples(text, "tapecheck_check_value")
    assert sorted((dict(labels)["objective"], dict(labels)["nth"], value) for labels, value in found.items()) == [
        ("p95_ms < 1000", "1", 1), ("p95_ms < 1000", "2", 2), ("p99_ms < 9", "1", 3),
    ]  # fmt: skip
    assert len(samples(text, "tapecheck_check_verdict")) == text.count("\ntapecheck_check_verdict{") == 15


def test_prometheus_sees_that_a_pass_is_an_old_one(tmp_path: Path) -> None:
    """Attempts since then that left no result are counted, also where no run left one; 0 where there are none."""
    put(tmp_path, "backfill", 0)
    put(tmp_path, "load", 0)
    for name in ("backfill-20261102T000000Z-a", "backfill-20261103T000000Z-b", "compare-20261102T000000Z-c"):
        (tmp_path / "unfinished" / name).mkdir(parents=True)
    pages.write(tmp_path)
    since = samples((tmp_path / "metrics.txt").read_text(), "tapecheck_attempts_without_result")
    assert {dict(labels)["validation"]: value for labels, value in since.items()} == {"load": 0, "backfill": 2, "compare": 1}


# ---- Markdown ----


def rendered(path: Path) -> Any:
    html = MarkdownIt("commonmark").enable("table").enable("strikethrough").render(path.read_text())
    return html5lib.parse(html, namespaceHTMLElements=False)


def words(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def test_the_comment_is_a_table_and_what_is_folded_under_it(written: Path) -> None:
    """Read by markdown-it: a row a validation with as many cells as the head, and a summary that opens for each."""
    tree = rendered(written / "summary.md")
    rows = [[words(cell) for cell in row] for row in tree.iter("tr")]
    assert rows[0] == ["validation", "verdict", "checks met", "main figure", "target", "run"]
    assert [row[:3] for row in rows[1:]] == [["load", "❌ FAIL", "1 of 5"], ["backfill", "✅ PASS", "5 of 5"]]
    assert {len(row) for row in rows} == {6}
    assert len(list(tree.iter("details"))) == 2
    assert words(tree.find(".//h2")) == "tapecheck: FAIL"
    assert "fail: p95_ms < 1000: fail: why (n = 9)" in words(tree)


def test_a_comment_without_runs_says_so(tmp_path: Path) -> None:
    """An empty folder has all reports too."""
    pages.write(tmp_path)
    assert words(rendered(tmp_path / "summary.md")) == "tapecheck: no recorded runs"
    assert list(JUnitXml.fromfile(str(tmp_path / "junit.xml"))) == []
    assert list(text_string_to_metric_families((tmp_path / "metrics.txt").read_text()))
    assert "No recorded runs yet" in (tmp_path / "executive.html").read_text()


# ---- pages ----


def strictly(html: str) -> Any:
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)


def images(tree: Any) -> list[Any]:
    return [e for e in tree.iter() if str(e.tag).rpartition("}")[2] == "svg"]


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_whole_and_ask_nobody(hostile: Path, written: Path, name: str) -> None:
    """No error of HTML, and nothing that is loaded: no script, style sheet, font or picture from anywhere."""
    for page in (hostile / name, written / name):
        tree = strictly(page.read_text())
        assert not [e for e in tree.iter() if e.tag in ("link", "iframe", "object")]
        assert [e.text for e in tree.iter("script")] == ([SCRIPT] if name == pages.INDEX else []), "our own script, allowed by its hash"
        assert not [e for e in tree.iter("img") if not e.get("src").startswith("data:")]
        assert "url(" not in page.read_text()
        assert "@import" not in page.read_text()
        assert SEEN in words(tree.find("body")) or page.parent == written


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"status": 503}, "s: 3 requests failed (<0.1%): HTTP 503, from 1 to 2 s"),
        ({"first_s": None}, "s: 3 requests failed (<0.1%): another status than expected"),
        ({"kind": "connection_reset", "ratio": 0.25, "first_s": None}, "s: 3 requests failed (25.0%): connection reset"),
    ],
)
def test_failures_say_only_what_is_known(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    """Another tool may name no status; three of a million are some."""
    one = {"scenario": "s", "kind": "status", "status": None, "count": 3, "ratio": 3e-6, "first_s": 1.0, "last_s": 2.0}
    one |= {"request": "bars", "example": "", **given}
    put(tmp_path, "load", 0, lambda result: result.update(failures=[one]))
    assert overview.read(tmp_path).entries[0].failures == (said,)


def test_the_list_has_a_sparkline_and_links_that_lead_somewhere(written: Path) -> None:
    """One a validation whose main figure is valid, and every link is to a file of the folder or a place on the page."""
    assert images(strictly((written / "index.html").read_text())) == [], "a single run has no course"
    put(written, "load", 2, FIVE)
    put(written, "backfill", 3)
    folders.write_file(written / "explore" / "load-1#2.html", b"")
    tree = strictly(pages.write(written).read_text())
    assert len(images(tree)) == 2
    places = {e.get("id") for e in tree.iter() if e.get("id")}
    links = [a.get("href") for a in tree.iter("a")]
    assert len(links) >= 8
    assert [link for link in links if not (link[1:] in places if link[0] == "#" else (written / unquote(link)).exists())] == []
    assert "explore/load-1%232.html" in links


@pytest.mark.parametrize("name", PAGES)
def test_a_browser_shows_what_stands_in_a_run_as_text(hostile: Path, browser: Browser, name: str) -> None:
    """No element of what a run's texts say, and the texts whole."""
    tree = html5lib.parse(browser.document(hostile / name), namespaceHTMLElements=False)
    assert SEEN in words(tree.find("body"))
    assert not [e for e in tree.iter() if e.tag in ("script", "b", "strong") and "alert" in words(e)]


def attack(url: str) -> str:
    """Return what would show, ask for or run something in each way that HTML has."""
    act = f"document.title='1';fetch('{url}/f')"
    return (
        f'<img src="{url}/i" onerror="{act}"><script>{act}</script><svg onload="{act}"></svg><body onload="{act}">'
        f'<a href="javascript:{act}" onclick="{act}">x</a><style>@import "{url}/c"; body {{background: url({url}/b)}}</style>'
        f'<iframe src="{url}/p"></iframe><link rel="stylesheet" href="{url}/l"><meta http-equiv="refresh" content="0;url={url}/m">'
        f"![x]({url}/n) [x](javascript:alert(1)) <object data='{url}/o'></object>"
    )


def attacked(folder: Path, said: str) -> list[Path]:
    """Return the pages of a run whose every text is an attack, and a report with each kind of output."""

    def change(result: Any) -> None:
        result.update(checks=[check("fail", said, said, reason=said)], verdict="fail", headline=said)
        result["target"].update(name=said, base_url=said)
        result["recommendations"] = [{"name": said, "finding": said, "evidence": {said: said}, "action": said}]

    put(folder, "load", 0, change)
    pages.write(folder)
    bundles = {
        "text/markdown": [said, headline(said, [], said)], "text/html": [said, pd.DataFrame({said: [said]}).to_html()],
        "image/svg+xml": [f"<svg>{said}</svg>"], "application/javascript": ["document.title='1'"], "text/latex": [said],
    }  # fmt: skip
    outputs = [nbformat.v4.new_output("display_data", {kind: one}) for kind, found in bundles.items() for one in found]
    outputs += [nbformat.v4.new_output("stream", text=said), nbformat.v4.new_output("error", ename=said, evalue=said, traceback=[said])]
    cells = [nbformat.v4.new_markdown_cell(f"# {said}\n\n{said}"), nbformat.v4.new_code_cell("1", outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "executed.ipynb")
    (folder / "report.html").write_text(report(nbformat.read(folder / "executed.ipynb", as_version=4)))
    return [folder / name for name in (*PAGES, "report.html")]


def test_no_page_runs_shows_or_asks_for_what_a_text_in_it_says(tmp_path: Path, browser: Browser) -> None:
    """No script, no dialog, no attribute that is code, no request; and the policy of each page would stop what got through."""
    with Server(servers.fast) as server:
        for page in attacked(tmp_path, attack(server.url)):
            assert "Content-Security-Policy" in page.read_text(), page.name
            document = browser.document(page)
            tree = html5lib.parse(document, namespaceHTMLElements=False)
            assert "document.title=" in words(tree.find("body")), "it stands there as text"
            assert [(e.tag, name) for e in tree.iter() for name in e.attrib if name.startswith("on")] == [], page.name
            assert [e.text for e in tree.iter("script")] == ([SCRIPT] if page.name == pages.INDEX else []), page.name
            assert [e.tag for e in tree.iter() if e.tag in ("iframe", "object", "link")] == [], page.name
            assert not [a for a in tree.iter("a") if a.get("href", "").startswith("javascript")], page.name
            assert words(tree.find(".//title")) != "1"
        assert server.seen.connections == 0, server.seen.paths


@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_a_phone(hostile: Path, written: Path, browser: Browser, name: str) -> None:
    """Nobody scrolls sideways at 390 pixels, however long the texts are."""
    for page in (written / name, hostile / name):
        assert browser.width_px(page, 390) <= 390


def test_nothing_keeps_people_from_reading_a_page(written: Path, browser: Browser) -> None:
    """Judged by axe-core; a picture without a text is what it finds, so that it is known to look."""
    notebook = nbformat.read(Path(__file__).parent / "notebooks" / "load.ipynb", as_version=4)
    (written / "report.html").write_text(report(notebook))
    for name, look in (("index.html", ()), ("executive.html", (DARK,)), ("report.html", (DARK,))):
        assert browser.faults(written / name, *look) == [], name
    (written / "bad.html").write_text((written / "executive.html").read_text().replace("</main>", '<img src="data:,"></main>'))
    assert [fault.partition(":")[0] for fault in browser.faults(written / "bad.html")] == ["image-alt"]


def test_the_list_is_filtered_and_sorted_without_a_network(tmp_path: Path, browser: Browser) -> None:
    """By words in any column and by the figures, not by their digits; fifty rows at first, and all of them when asked for."""
    for i in range(60):
        put(tmp_path, "backfill", i, set_at("totals.records_per_s", 9 if i == 7 else 100 + i))
    page = pages.write(tmp_path)
    acts = """<script>{
const rows = () => [...document.querySelectorAll("tbody tr")].filter(row => !row.hidden), found = [rows().length];
document.querySelectorAll("th button")[4].click(); found.push(rows()[0].cells[4].textContent);
document.querySelectorAll("th button")[4].click(); found.push(rows()[0].cells[4].textContent);
document.querySelector("button.all").click(); found.push(rows().length);
const filter = document.querySelector("input"); filter.value = "BACKFILL 00:07"; filter.oninput(); found.push(rows().length);
document.title = found.join("|");
}</script></html>"""
    (tmp_path / "acts.html").write_text(re.sub("<meta http-equiv[^>]*>", "", page.read_text()).replace("</html>", acts))
    title = html5lib.parse(browser.document(tmp_path / "acts.html"), namespaceHTMLElements=False).find(".//title").text
    assert title == "50|9 records/s|159 records/s|60|1"
    assert words(html5lib.parse(browser.document(page), namespaceHTMLElements=False).find(".//*[@role='status']")) == "50 of 60 runs"


def test_the_list_breaks_no_targets_name(tmp_path: Path, browser: Browser) -> None:
    """However much was found beside it."""
    put(tmp_path, "compare", 0)
    assert browser.lines(pages.write(tmp_path), 900, "td:nth-child(4)") == 1


def test_the_summary_is_printed_on_one_page(tmp_path: Path, browser: Browser) -> None:
    """Every validation at its worst: more is missed, found and advised than is told, all of it long, and attempts failed since."""
    many(tmp_path, 3)
    missed, advised = "the value 1,234 ms misses 1,000 ms by its bound " * 4, "look for another fix and measure it again " * 5
    proofs = " ".join(f"some_proof_with_a_long_name_{j}: improved, throughput_rps +602% (+573% to +711%)." for j in range(12))

    def worst(result: Any) -> None:
        checks(*(check("fail", name=f"some_scenario_{j}", reason=missed) for j in range(9)))(result)
        found = [{"name": "x", "finding": f"{j}: {missed}", "evidence": {}, "action": f"{j}: {advised}"} for j in range(9)]
        result.update(recommendations=found, headline=missed)

    def compared(result: Any) -> None:
        worst(result)
        hoped = ", where 25% to 35% less was promised and 52% less predicted; its baseline: insert takes 54% of busy time"
        found = [
            {**one, "finding": f"some_proof_with_a_long_name_{j}: proven, duration_s -39% (-41% to -36%){hoped}"}
            for j, one in enumerate(result["recommendations"])
        ]
        checks(*(check("not_proven", name=f"some_proof_with_a_long_name_{j}", reason=missed) for j in range(12)))(result)
        result.update(recommendations=found, headline=proofs)

    for i, name in enumerate(("load", "backfill", "rto_rpo")):
        put(tmp_path, name, 10 + i, worst)
    put(tmp_path, "compare", 20, compared)
    for i in range(9):
        (tmp_path / "unfinished" / f"compare-20261103T00000{i}Z-aaaa").mkdir(parents=True)
    pages.write(tmp_path)
    assert browser.printed_pages(tmp_path / "executive.html") == 1


def test_the_report_of_a_run_shows_no_code(tmp_path: Path, browser: Browser) -> None:
    """Made from the golden notebook: its headings, verdict, tables and charts, and not one line of a cell."""
    page = tmp_path / "report.html"
    page.write_text(report(nbformat.read(Path(__file__).parent / "notebooks" / "load.ipynb", as_version=4)))
    body = browser.document(page).partition("<body")[2]
    assert "NOT PROVEN" in body
    assert body.count("data:image/png") >= 5
    assert body.count("<table") >= 3
    assert body.count('<div class="chart"') == body.count("<img ") and browser.width_px(page, 390) <= 390, "they scroll on a phone"
    assert "import charts" not in body
    assert "load.run(" not in body


def test_other_versions_and_half_runs_are_skipped_and_named(tmp_path: Path) -> None:
    """An older and a newer schema, and a folder without a result: the page says what each is, and shows the rest."""
    put(tmp_path, "load", 0)
    put(tmp_path, "load", 1, lambda r: r.update(schema_version=0))
    put(tmp_path, "backfill", 2, lambda r: r.update(schema_version=2))
    (tmp_path / "rto_rpo" / "20261101T010000Z-dead").mkdir(parents=True)
    page = words(strictly(pages.write(tmp_path).read_text()))
    assert "schema version 0, which this version does not read" in page
    assert "schema version 2, which this version does not read" in page
    assert "20261101T010000Z-dead: no result.json" in page
    assert [entry.result.run_id for entry in overview.read(tmp_path).entries] == ["20261101T000000Z-0000"]


def test_a_sparkline_goes_from_left_to_right_and_up() -> None:
    """The largest value is highest, the first is at the left edge, and a single one or equal ones lie in the middle."""
    points = pages.polyline((1, 3, 2))
    assert [x for x, _ in points] == [4, 75, 146]
    assert [y for _, y in points] == [28, 4, 16]
    assert pages.polyline((5,)) == [(4, 16)]
    assert {y for _, y in pages.polyline((5, 5, 5))} == {16}


def test_the_summary_says_what_is_broken_by_which_evidence_and_what_to_do(written: Path) -> None:
    """The worst first; of the backfill that nothing is, and what its run recommends."""
    load, backfill = [markdown.of(standing) for standing in overview.read(written).standings]
    assert [text.partition(":")[0] for text in load.broken] == ["fail", "invalid", "no_data", "and 1 more"]
    assert load.actions == (NEXT[Verdict.FAIL],)
    assert backfill.broken == ()
    assert backfill.evidence[0].startswith("Where the time goes: ")
    assert backfill.actions[0] == "profile the longest first; a fix of one alone buys little"
    page = words(strictly((written / "executive.html").read_text()))
    assert "Nothing: every objective is met." in page
    assert "fail: p95_ms < 1000: fail: why (n = 9)" in page


# ---- a thousand runs ----


def test_each_schema_is_compiled_once_and_each_run_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thousand runs cost is a thousand readings and as many schemas as validations, whatever the reports ask for."""
    counts = many(tmp_path, 25)
    asked: list[str] = []
    opened: list[Path] = []
    schema, read = results.schema, Path.read_bytes
    results.validator.cache_clear()
    monkeypatch.setattr(results, "schema", lambda name: asked.append(name) or schema(name))
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or read(path))
    pages.write(tmp_path)
    assert sorted(asked) == sorted(counts)
    assert len(opened) == len(set(opened)) == 25
    results.validator.cache_clear()


def test_no_more_than_one_whole_result_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand would take a gigabyte."""
    many(tmp_path, 12)
    held: list[int] = []
    each = folders.each

    def counting(out: Path) -> Iterator[folders.Run]:
        for run in each(out):
            yield run
            held.append(sum(isinstance(one, folders.Run) for one in gc.get_objects()))

    monkeypatch.setattr(folders, "each", counting)
    assert len(overview.read(tmp_path).entries) == 12
    assert max(held) <= 2


def test_a_file_of_another_tool_does_not_hide_what_was_measured_here(tmp_path: Path) -> None:
    """It is listed, and stands for the validation only where nothing else does; nobody is said to have measured it here."""

    def foreign(result: Any) -> None:
        result["environment"]["versions"] = {}

    put(tmp_path, "load", 0)
    put(tmp_path, "load", 1, foreign)
    found = overview.read(tmp_path)
    (standing,) = found.standings
    assert len(found.entries) == 2
    assert standing.entry is not None and standing.entry.is_ours
    assert {entry.code.split()[0] for entry in found.entries} == {"tapecheck", "another"}
