"""What was planted into a recorded run is found through the notebook's panel, and what its page shows stays text and needs nobody."""

import base64
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import html5lib
import httpx
import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples
import websocket
from browsers import QUIET, Browser, installed
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs
from recorded_runs import DATA, put

from tapecheck import __main__ as command_line
from tapecheck import config, notebook
from tapecheck.errors import ConfigError
from tapecheck.explore import catalog, events, panel
from tapecheck.explore.figures import MIME, MOST_POINTS, safe
from tapecheck.explore.panel import Panel
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.validation import load
from tapecheck.runs.page import allowed

SYMBOLS, RATE_RPS, N = ("AAPL", "MSFT", "GOOGL"), 1000, 30_000
FROZEN_S, BURST = (12.0, 13.0), range(21_000, 21_060)  # the target stands still; of these requests those of MSFT get a 503
HOSTILE = "<script>alert(1)</script>$x^2$ <b>%{y} \u202eabc"


def planted(out: Path, minute: int = 0, names: Mapping[str, str] | None = None) -> Path:
    """Record an open model of 30 s in which GOOGL is ten times as slow, everything waits out a freeze, and a burst of MSFT fails."""
    rows = samples.burst([2.0] * N)
    rows["request"] = np.arange(N) % len(SYMBOLS)
    at_s = np.arange(N) / RATE_RPS
    rows["intended_ns"] = rows["sent_ns"] = samples.START_NS + (at_s * 1e9).astype(np.int64)
    took_s = np.where(rows["request"] == 2, 0.020, 0.002)
    began, ended = FROZEN_S
    took_s += np.where((at_s >= began) & (at_s < ended), ended - at_s, 0)
    rows["done_ns"] = rows["first_byte_ns"] = rows["intended_ns"] + (took_s * 1e9).astype(np.int64)
    for i in BURST:
        if rows["request"][i] == 1:
            rows["error"][i], rows["status"][i] = ErrorKind.status, 503
    name = (names or {}).get("steady_rate", "steady_rate")
    asked = samples.requests(*({"symbol": (names or {}).get(symbol, symbol), "limit": 500} for symbol in SYMBOLS))
    found = samples.recording({name: rows}, {name: asked}, executor="constant_rate")
    folder = put(out, "load", minute, lambda result: result["target"].update(name=(names or {}).get("target", "sandbox")))
    for table, content in found.stored().items():
        pq.write_table(content, folder / f"{table}.parquet")
    return folder


def opened(run: Path | str, **given: str) -> Panel:
    return Panel(panel.settings(**{"run": str(run), "over": "", "where": "", "by": "", "plan": "", "objectives": "", "out": "", **given}))


def figure(view: Panel, name: str) -> list[dict[str, Any]]:
    return view.part(name)[MIME]["data"]


def values(trace: Mapping[str, Any], axis: str) -> np.ndarray:
    """Return the numbers of a trace, which plotly packs."""
    found = trace[axis]
    return np.frombuffer(base64.b64decode(found["bdata"]), found["dtype"]) if isinstance(found, dict) else np.array(found)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted(tmp_path_factory.mktemp("planted"))


# ---- what was planted is found ----


def test_a_slow_symbol_is_found(run: Path) -> None:
    """Coloured by symbol, its line stands apart from the others at every percentile; an unknown column is an error."""
    lines = {line["name"].split()[0]: line for line in figure(opened(run, by="symbol"), "spectrum") if "n = " in line["name"]}
    assert list(lines) == ["AAPL", "GOOGL", "MSFT"]
    medians = {name: float(np.interp(2.0, values(line, "x"), values(line, "y"))) for name, line in lines.items()}  # at 1 / (1 - 0.5)
    assert medians["GOOGL"] > 9 * max(medians["AAPL"], medians["MSFT"])
    with pytest.raises(ConfigError, match="by: got venue; allowed: one of scenario, symbol, limit, status, error"):
        opened(run, by="venue")


def test_a_freeze_is_found(run: Path) -> None:
    """A column of slow ones stands at its beginning, seconds pass in which nothing ends, and the slowest is its first request."""
    view = opened(run)
    frame, said = view.slowest()
    assert list(frame["took (ms)"]) == sorted(frame["took (ms)"], reverse=True) and "20 slowest of 30,000 requests" in said
    first = frame.iloc[0]
    assert first["at (s)"] == pytest.approx(FROZEN_S[0], abs=0.01) and first["took (ms)"] > 990
    (line, *_) = (one for one in figure(view, "timeline") if "succeeded" in one["name"])
    silent_s = values(line, "x")[:-1][values(line, "y")[:-1] == 0]
    assert len(silent_s) >= 8 and FROZEN_S[0] <= silent_s.min() < silent_s.max() < FROZEN_S[1]


def test_a_burst_of_failures_is_found_by_kind_status_and_request(run: Path) -> None:
    """One row says how many of whom, which share, from when to when."""
    frame, said = opened(run).failures()
    assert said == "20 of 30,000 requests failed."
    (row,) = frame.to_dict("records")
    assert (row["error"], row["status"], row["symbol"], row["count"]) == ("status", "503", "MSFT", 20)
    assert row["share of such"] == 0.002 and 21.0 <= row["first (s)"] < row["last (s)"] < 21.06
    assert pq.read_table(run / "samples.parquet").slice(row["its row"], 1).column("status").to_pylist() == [503]
    crosses = [one for one in figure(opened(run, where="status=503"), "latency") if "failed" in one["name"]]
    assert sum(len(values(one, "x")) for one in crosses) == 20


def test_crosses_of_several_drills_differ_in_colour() -> None:
    """Each has that of its drill's points, so that the legend says which one failed."""
    drawn = figure(opened(DATA / "rto_rpo", by="drill"), "latency")
    crosses = [one["marker"]["color"] for one in drawn if one["name"].endswith(", failed")]
    assert len(crosses) > 1 and len(set(crosses)) == len(crosses)


def test_no_spike_is_lost_however_many_are_drawn(run: Path) -> None:
    """Few points stand for all, the longest and the shortest among them."""
    view = opened(run)
    drawn = np.concatenate([values(one, "y") for one in figure(view, "latency")])
    assert len(drawn) <= MOST_POINTS + 20
    assert (drawn.max(), drawn.min()) == (round(view.opened.events.took_ms.max(), 3), round(view.opened.events.took_ms.min(), 3))


# ---- filters ----


def test_a_filter_that_fits_nothing_is_an_error(run: Path) -> None:
    """All that is wrong of it at once, with what there is."""
    with pytest.raises(ConfigError) as caught:
        opened(run, where="symbol=TSLA; colour=red; 503")
    columns = "allowed: COLUMN=VALUE,VALUE; columns: scenario, symbol, limit, status, error"
    for said in ("got symbol=TSLA; allowed: values of symbol: AAPL, GOOGL, MSFT", f"got colour=red; {columns}", f"got 503; {columns}"):
        assert said in str(caught.value)


def test_a_filter_is_read_as_it_is_written(run: Path) -> None:
    """What the line below the lists says is the parameter."""
    view = opened(run, where="status=503 ; symbol = MSFT,AAPL")
    assert {name: set(wanted) for name, wanted in view.where.items()} == {"symbol": {"MSFT", "AAPL"}, "status": {"503"}}
    assert events.parse(events.written(view.where), view.opened.events) == view.where
    assert view.note.value.startswith("20 requests of 30,000 chosen.") and "where = " in view.note.value


def rows_of(columns: Mapping[str, list[str]]) -> events.Events:
    """Return rows that have nothing but columns of these values."""
    words = {name: ([*values, ""], np.arange(len(values))) for name, values in columns.items()}
    nothing = {"positions": np.arange(0), "at_s": np.zeros(0), "took_ms": np.zeros(0), "failed": np.zeros(0, bool)}
    return events.Events(source=events.SOURCES["load"], table=pa.table({}), columns=words, origin_ns=0, **nothing)


WORDS = st.text(st.sampled_from("ab,;=\"\\' \n\u2028é"), min_size=1, max_size=6)


@given(st.dictionaries(WORDS, st.lists(WORDS, min_size=1, unique=True), max_size=3))
def test_any_filter_that_is_shown_can_be_typed(where: dict[str, list[str]]) -> None:
    """Whatever signs stand in names and values, as in a batch's parameter symbols="AAPL,MSFT"."""
    assert events.parse(events.written(where), rows_of(where)) == {name: tuple(wanted) for name, wanted in where.items()}


def test_a_filter_may_be_typed_without_quotes_where_that_is_clear() -> None:
    """A space within a word, and a sign of equality within a value, are part of it."""
    known = rows_of({"failure": ["HTTP 429"], "path": ["/v1?limit=5"]})
    typed = "failure = HTTP 429; path=/v1?limit=5 ;"
    assert events.parse(typed, known) == {"failure": ("HTTP 429",), "path": ("/v1?limit=5",)}
    assert events.written({"symbols": ["AAPL,MSFT"]}) == 'symbols="AAPL,MSFT"'


def test_what_is_shown_follows_the_widgets(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filter, run, second run and objective: each changes what is on screen and concerns it, and an error stands in place of a verdict."""
    screen: dict[str, Any] = {}
    monkeypatch.setattr(notebook, "_display", lambda part, name, update=False: screen.update({name: part}))
    shutil.copytree(run.parent.parent, tmp_path, dirs_exist_ok=True)
    shutil.copytree(DATA / "load", tmp_path / "load" / "20261123T222100Z-6755")
    view = opened("latest", out=str(tmp_path))
    assert view.opened.run.folder.name == "20261123T222100Z-6755", "the newest by name"
    view.show("latency", "failures", "verdict", "checks")
    assert "102,141 requests" in screen["latency"]["text/plain"]

    view.filters["symbol"].value = ("MSFT",)
    assert (
        "102,141" not in screen["latency"]["text/plain"] and f"n = {int(view.chosen.sum()):,} requests" in screen["latency"]["text/plain"]
    )
    view.run.value = next(name for name in view.run.options if name.endswith(f"({run.name})"))
    assert view.filters["symbol"].value == ("MSFT",) and "20 of 10,000 requests failed" in screen["failures"]["text/plain"]
    view.over.value = next(name for name in view.over.options if name.endswith("(20261123T222100Z-6755)"))
    assert "and load of sandbox, run 20261123T222100Z-6755" in screen["latency"]["text/plain"]

    assert "As recorded" in screen["verdict"]
    view.objectives.value = "p99_ms < 1"
    assert screen["verdict"].startswith("**FAIL** for planted") and "nothing was measured" in screen["verdict"]
    assert "p99_ms < 1" in screen["checks"]["text/plain"]
    view.objectives.value = "p98_ms < 1"
    assert "no metric 'p98_ms'" in screen["verdict"] and "**" not in screen["verdict"] and "no metric" in screen["checks"]


def test_a_run_that_cannot_be_opened_leaves_the_one_that_is_shown(run: Path, tmp_path: Path) -> None:
    """The list names what figures, verdict and page are of, and the line below the filters says why."""
    shutil.copytree(run.parent.parent, tmp_path, dirs_exist_ok=True)
    shutil.copytree(DATA / "load", damaged := tmp_path / "load" / "20261123T222100Z-6755")
    (damaged / "samples.parquet").write_bytes(b"PAR1")
    view = opened(tmp_path / "load" / run.name, out=str(tmp_path))
    (other,) = (i for i, name in enumerate(view.run.options) if name.endswith(f"({damaged.name})"))
    shown = view.run.value
    view.run.set_state({"index": other})  # as a browser does
    assert view.run.value == shown and shown.endswith(f"({view.opened.run.folder.name})")
    assert "got samples that cannot be read" in view.note.value


# ---- judging again ----


def test_judged_again_it_is_what_a_measurement_under_that_plan_would_say(run: Path) -> None:
    """The library's own analysis; with objectives typed in, by these and no others."""
    one = opened(run).opened
    checks = catalog.judged(one, plan="config/load.yaml")[1].checks
    found = load.analyse(one.recording, load.read_plan("config/load.yaml"))
    assert [dataclasses.astuple(check) for check in checks] == [dataclasses.astuple(check) for check in found.checks]
    headline, result = catalog.judged(one, objectives="p95_ms < 3; steady_rate.failed <= 30")
    assert [(check.objective, check.verdict) for check in result.checks] == [("p95_ms < 3", "fail"), ("steady_rate.failed <= 30", "pass")]
    assert "the objectives typed in, and else config/load.yaml" in headline
    with pytest.raises(ConfigError, match=r"nosuch\.yaml"):
        catalog.judged(one, plan="nosuch.yaml")


def test_objectives_typed_in_take_the_place_of_those_of_a_profile() -> None:
    """The profile with which a backfill was run keeps the rest of what it changes."""
    one = opened(DATA / "backfill").opened
    _, result = catalog.judged(one, objectives="duration_s < 1")
    assert [(check.objective, check.verdict) for check in result.checks] == [("duration_s < 1", "fail")]


# ---- the runs ----


@pytest.mark.parametrize("validation", list(config.VALIDATIONS))
def test_every_validation_can_be_explored(validation: str) -> None:
    """What it timed is counted, and each part says of which run it is."""
    view = opened(DATA / validation)
    table = view.opened.recording.tables[events.SOURCES[validation].table]
    warm_up = sum(table.column("warm_up").to_pylist()) if "warm_up" in table.column_names else 0
    assert len(view.opened.events) == len(table) - warm_up > 0
    for name in ("latency", "spectrum", "timeline"):
        drawn = view.part(name)
        assert drawn[MIME]["data"] and view.opened.head.run_id in drawn["text/plain"]
    assert len(view.slowest()[0]) == min(events.SLOWEST, len(view.opened.events))
    assert view.opened.head.validation != "rto_rpo" or view.failures()[0]["count"].sum() == 65


def test_a_run_of_another_tool_without_requests_has_its_verdict_alone(tmp_path: Path) -> None:
    """What nobody recorded is unknown, and never 0 failures."""
    given = load.settings(target="x", plan="config/load.yaml", run=str(DATA / "tools" / "k6_summary.json"), out=str(tmp_path))
    todo = load.plan(given)
    view = opened(load.record(load.analyse(load.recording(todo, given), todo), settings=given).folder or "")
    shown = [view.part(name)["text/plain"] for name in ("latency", "spectrum", "timeline", "slowest", "failures")]
    assert all("o single requests were recorded" in one for one in shown) and view.part("verdict").startswith("**FAIL**")


@pytest.mark.parametrize(
    ("validation", "table", "change", "kinds"),
    [
        ("observe", "exchanges", {"status": [200, 429, 500, 0, 429], "failure": ["", "", "", "ReadError", ""]},
         {"HTTP 429": 2, "HTTP 500": 1, "ReadError": 1}),
        ("rto_rpo", "probes", {"state": [2, 0, 0, 0, 1], "status": [200, 500, 0, 0, 503], "error": ["", "", "", "ConnectError", ""]},
         {"HTTP 500": 1, "no answer": 1, "ConnectError": 1}),
    ],
)  # fmt: skip
def test_a_refusal_is_a_failure_and_its_status_the_kind(
    validation: str, table: str, change: Mapping[str, list[Any]], kinds: Mapping[str, int], tmp_path: Path
) -> None:
    """An answer that says no has failed as much as none, without a word of the transport's."""
    shutil.copytree(DATA / validation, tmp_path / "run")
    rows = pq.read_table(file := tmp_path / "run" / f"{table}.parquet").slice(0, 5)
    for name, column in change.items():
        field = rows.schema.field(name)
        rows = rows.set_column(
            rows.column_names.index(name),
            field,
            pa.array(column, pa.string() if name in ("failure", "error") else field.type).cast(field.type),
        )
    pq.write_table(rows, file)
    view = opened(tmp_path / "run")
    found, said = view.failures()
    assert found.groupby(view.opened.events.source.failure)["count"].sum().to_dict() == kinds
    assert said.startswith(f"{sum(kinds.values())} of 5 ")


def test_no_drill_is_drawn_as_hit_before_its_fault() -> None:
    """A probe that was under way when the fault began met it then; what was so before is drawn as it was."""
    drawn = {one["name"]: one for one in figure(opened(DATA / "rto_rpo", where="drill=api_frozen,api_killed"), "timeline")}
    assert values(drawn["no service"], "base").min() >= 0 > values(drawn["full service"], "base").min()


def test_the_list_names_runs_that_cannot_be_read(tmp_path: Path, run: Path) -> None:
    """They are listed with the reason, and cannot be picked; a folder that is named and is none is an error."""
    shutil.copytree(run, tmp_path / "load" / run.name)
    (tmp_path / "load" / "20991231T000000Z-dead").mkdir()
    view = opened("latest", out=str(tmp_path))
    frame, said = view.runs()
    assert said == "2 recorded runs." and list(frame["verdict"]) == ["no result.json", "not proven"]
    assert [name for name in view.run.options if "dead" in name] == [] and len(view.run.options) == 1
    with pytest.raises(ConfigError, match=r"no result\.json"):
        opened(tmp_path / "load" / "20991231T000000Z-dead")
    with pytest.raises(ConfigError, match="latest, and no run is recorded there"):
        opened("latest", out=str(tmp_path / "empty"))


# ---- the page ----


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run whose every name is hostile."""
    out = tmp_path_factory.mktemp("hostile")
    view = opened(planted(out, names={"steady_rate": HOSTILE, "MSFT": HOSTILE, "target": HOSTILE}), out=str(out))
    file = view.write().file
    assert file is not None and file.parent == out / "explore"
    return file


def test_the_page_is_strict_html_without_a_link_to_anywhere(page: Path) -> None:
    """Names are text in it, its only scripts are the three of ours, and nothing of it asks a network."""
    said = page.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    document = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(said)
    assert len(document.findall(".//script")) == 3 and not document.findall(".//b")
    assert [one.get("href") for one in document.findall(".//a")] == [f"#part{i}" for i in range(6)]
    assert not {"link", "img", "iframe", "form"} & {one.tag for one in document.iter()}
    assert "<script>alert(1)</script>$x^2$ <b>%{y} \ufffdabc" in document.find(".//h1").text and "\u202e" not in said
    data = json.loads(document.find(".//script[@id='figures']").text)
    assert safe(HOSTILE) in str(data) and HOSTILE.partition(" ")[0] not in str(data)


HOVERED = """<script>
  const place = document.getElementById("figure0");
  Plotly.Fx.hover(place, [{curveNumber: 0, pointNumber: 3}]);
  Plotly.relayout(place, {"xaxis.range": [11, 14]}).then(() => {
    const said = [...document.querySelectorAll(".hoverlayer text")].map(one => one.textContent).join("|");
    const legend = document.querySelector(".legendtext").textContent;
    document.body.dataset.seen = [place.layout.xaxis.range, typeof MathJax, legend, said].join("; ");
  });
</script></body>"""


def test_the_page_hovers_and_zooms_without_kernel_and_network(page: Path, tmp_path: Path) -> None:
    """In a browser, with names as they were given but for what no page can show, and no serious fault for who cannot see."""
    if (program := installed()) is None:
        pytest.skip("no browser is installed: nobody hovered over this page")
    browser = Browser(program=program, folder=tmp_path)
    ours, content = allowed(HOVERED.removeprefix("<script>").partition("</script>")[0]), page.read_text(encoding="utf-8")
    stranger = "<script>document.body.dataset.stranger = 'ran'</script>"
    content = content.replace("script-src", ours, 1).replace("</body>", stranger + HOVERED)
    (copy := tmp_path / "page.html").write_text(content, encoding="utf-8")
    assert browser.faults(page) == [] and browser.width_px(page, 390) <= 390
    document = browser.document(copy)
    assert "data-stranger" not in document, "the policy lets no other script run"
    seen = re.search(r'data-seen="([^"]*)"', document)
    assert seen is not None, "no figure was drawn"
    assert seen[1].startswith("11,14; undefined; ") and "ms at" in seen[1] and "row " in seen[1]
    assert "alert(1)" in seen[1] and "$x^2$" in seen[1] and "%{y}" in seen[1]


def test_the_command_writes_the_page_and_ends_with_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As papermill runs it: judged by an objective that the recorded run misses, and nothing else is written."""
    words = ["run", "explore", "-p", "run", str(DATA / "observe"), "-p", "objectives", "requests <= 3", "--out", str(tmp_path)]
    assert command_line.main(words) == 1
    said = capsys.readouterr().out
    assert "explore     FAIL     0 of 1" in said and "page written to" in said
    assert "observe of" in said and ", run " in said and "nothing was measured" in said
    assert [str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()] == ["explore/observe-observe.html"]


# ---- in JupyterLab ----

HELPERS = """(() => {
  window.lab = [...jupyterapp.shell.widgets("main")].find(one => one.context);
  const texts = cell => cell.outputs.toJSON().map(one => one.ename || one.data["text/plain"]);
  window.said = () => JSON.stringify([...lab.content.model.cells].filter(cell => cell.type == "code").map(texts));
  window.choose = (title, value) => {
    const label = [...document.querySelectorAll(".widget-label")].filter(one => one.textContent == title).pop();
    const list = label.parentElement.querySelector("select");
    [...list.options].forEach(one => { one.selected = one.textContent.startsWith(value); });
    return list.dispatchEvent(new Event("change", {bubbles: true}));
  };
  return lab.sessionContext.session.kernel.status == "idle";
})()"""
STEPS = (  # each is asked until it is true; what is not there yet raises
    HELPERS,
    "jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)",
    "said().includes('page not written') && !said().includes('Error')",
    "choose('symbol', 'MSFT')",
    "said().includes('n = 10,000 requests')",
    "choose('coloured by', 'status')",
    "[...document.querySelectorAll('.js-plotly-plot')].some(one => one.data.map(line => line.name).join() == '200,503, failed')",
    "lab.sessionContext.shutdown().then(() => true)",
)


@contextlib.contextmanager
def started(folder: Path, *words: str, says: str) -> Iterator[re.Match[str]]:
    """Start a program, and give what it says of itself once it is there; end it."""
    own = {name: str(folder) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "HOME")}
    log = folder / f"{Path(words[0]).name}.log"
    with log.open("w") as file, subprocess.Popen(words, env={**os.environ, **own}, stdout=file, stderr=file, cwd=folder) as process:
        try:
            while not (found := re.search(says, log.read_text())):
                assert process.poll() is None, log.read_text()
                threading.Event().wait(0.1)
            yield found
        finally:
            process.terminate()


def test_run_all_and_two_widgets_in_jupyterlab(run: Path, tmp_path: Path) -> None:
    """Every cell runs, and a filter and a colour that are chosen change the figures on screen."""
    if (program := installed()) is None:
        pytest.skip("no browser is installed: nobody used a filter")
    source = nbformat.read(config.NOTEBOOKS / "explore.ipynb", as_version=4)
    source.cells[1].source = source.cells[1].source.replace('"latest"', repr(str(run))).replace('"outputs"', '""')
    nbformat.write(source, tmp_path / "explore.ipynb")
    options = ("--no-browser", "--allow-root", "--ServerApp.port=0", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True")
    lab = (sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={tmp_path}", *command_line._LAB_OPTIONS)
    chromium = (program, *QUIET, "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,3000")
    with (
        started(tmp_path, *chromium, says=r"ws://(127.0.0.1:\d+)/") as browser,
        started(tmp_path, *lab, says=r"http://127.0.0.1:\d+/lab") as server,
    ):
        (page,) = (one for one in httpx.get(f"http://{browser[1]}/json").json() if one["type"] == "page")
        tab = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=100, suppress_origin=True)
        with contextlib.closing(tab):
            asked = [("Page.navigate", {"url": f"{server[0]}/tree/explore.ipynb"})]
            asked += [("Runtime.evaluate", {"expression": step, "awaitPromise": True}) for step in STEPS]
            for method, given in asked:
                while True:
                    tab.send(json.dumps({"id": 1, "method": method, "params": given}))
                    while (got := json.loads(tab.recv())).get("id") != 1:
                        pass
                    if method == "Page.navigate" or got["result"].get("result", {}).get("value") is True:
                        break
                    threading.Event().wait(0.1)
