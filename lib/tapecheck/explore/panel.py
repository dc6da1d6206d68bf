"""What explore.ipynb shows of a run: filters to click, and figures and tables that follow them, in the notebook and in a page."""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ipywidgets as widgets
import pandas as pd

from tapecheck import config, notebook, text, validation
from tapecheck.errors import ConfigError, Problem, TapecheckError
from tapecheck.explore import catalog as catalogs
from tapecheck.explore import events, figures, page
from tapecheck.explore.catalog import Opened, Settings
from tapecheck.explore.events import Where
from tapecheck.explore.figures import MIME, Drawn, Layer
from tapecheck.load.samples import Mask
from tapecheck.recovery.recording import Recording
from tapecheck.runs import folders
from tapecheck.runs.outcomes import Recorded
from tapecheck.runs.results import Result
from tapecheck.verdict import counted

NONE, DRAWING = "(none)", "*Drawing.*"
MOST_OPTIONS = 500  # values of a column that can be clicked; `where` takes any
VIEW = "application/vnd.jupyter.widget-view+json"
WIDE, NARROW = widgets.Layout(width="98%"), widgets.Layout(width="15em", margin="0 .8em .5em 0")


def settings(**given: object) -> Settings:
    """Check the notebook's parameters; what is on screen is of other ones and goes.

    Raises:
        ConfigError: every wrong parameter at once, and each that papermill gave and the notebook does not have.
        OutputError: the output folder cannot be written.
    """
    found = validation.parameters(Settings, given)
    folders.check_writable(found.out)
    return found


class Panel:
    """A run, one laid over it, a filter and a judgement, each of which can be changed; what `show` displayed follows.

    Its parts: runs, latency, spectrum, timeline, slowest, failures, verdict and checks.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.catalog = settings, catalogs.read(settings)
        self._read: dict[str, Opened] = {}
        self._shown: dict[str, None] = {}
        self._known: dict[str, tuple[object, Any]] = {}  # what was last worked out, by its name, and of what
        self._is_changing = True
        names = {run.folder.resolve(): name for name, run in self.catalog.readable.items()}
        first = names[self.catalog.find(settings.run).folder.resolve()]
        second = names[self.catalog.find(settings.over).folder.resolve()] if settings.over else NONE
        described = {"layout": WIDE, "style": {"description_width": "7em"}}
        self.run = widgets.Dropdown(description="run", options=list(names.values()), value=first, **described)
        self.over = widgets.Dropdown(description="laid over it", options=[NONE, *names.values()], value=second, **described)
        self.plan = widgets.Text(description="other plan", value=settings.plan, continuous_update=False, **described)
        self.objectives = widgets.Text(description="objectives", value=settings.objectives, continuous_update=False, **described)
        self.by = widgets.Dropdown(description="coloured by", options=[], **described)
        self.note = widgets.HTML()
        self.filters: dict[str, widgets.SelectMultiple] = {}
        self._row = widgets.HBox(layout=widgets.Layout(flex_flow="row wrap"))
        self.box = widgets.VBox([self.run, self.over, self.by, self._row, self.note, self.plan, self.objectives])
        self.opened = self._open(first)
        if settings.by not in ("", *(columns := self.opened.events.columns)):
            raise ConfigError([Problem(file="parameters", key="by", got=settings.by, allowed=f"one of {', '.join(columns)}")])
        self._filter(events.parse(settings.where, self.opened.events), settings.by)
        self._judged()  # what is wrong with plan or objectives stops here
        self._is_changing = False
        self.run.observe(self._changed_run, "value")
        for one in (self.over, self.by):
            one.observe(lambda _: self._follow("latency", "spectrum", "timeline"), "value")
        for one in (self.plan, self.objectives):
            one.observe(lambda _: self._follow("timeline", "verdict", "checks"), "value")

    # what is chosen

    @property
    def where(self) -> dict[str, tuple[str, ...]]:
        """The filter as it stands."""
        return {name: tuple(one.value) for name, one in self.filters.items() if one.value}

    def layers(self) -> list[Layer]:
        """Return the chosen rows of the run, and of the one laid over it, which may lack what the filter names."""
        own = Layer(name=self.opened.name, events=self.opened.events, chosen=self.chosen, by=self.by.value)
        if self.over.value == NONE:
            return [own]
        other = self._open(self.over.value)
        where: Where = {name: wanted for name, wanted in self.where.items() if name in other.events.columns}
        return [own, Layer(name=f"{other.name} (laid over)", events=other.events, chosen=other.events.select(where), by=self.by.value)]

    @property
    def chosen(self) -> Mask:
        """The rows of the run that the filter leaves."""
        found: Mask = self._once("chosen", (self.opened.run.folder, self.where), lambda: self.opened.events.select(self.where))
        return found

    def _once(self, name: str, of: object, work: Callable[[], Any]) -> Any:
        """Return what is worked out of something, anew where that has changed."""
        if name not in self._known or self._known[name][0] != of:
            self._known[name] = of, work()
        return self._known[name][1]

    def _open(self, name: str) -> Opened:
        if name not in self._read:
            held = (self.run.value, self.over.value)  # of a third, nothing stays in memory
            self._read = {one: run for one, run in self._read.items() if one in held}
            self._read[name] = catalogs.opened(self.catalog.readable[name])
        return self._read[name]

    def _filter(self, where: Where, by: str) -> None:
        """Offer the columns that the run has and their values, those of a filter chosen."""
        self.filters, columns = {}, list(self.opened.events.columns)
        self.by.options, self.by.value = columns, by if by in columns else columns[0]
        for name in self.opened.events.columns:
            counts, chosen = self.opened.events.counts(name), tuple(where.get(name, ()))
            ranked = set(sorted(counts, key=lambda word: (word not in chosen, -counts[word]))[:MOST_OPTIONS])
            options = [(f"{text.line(word)} ({n:,})", word) for word, n in counts.items() if word in ranked]
            if len(options) > 1 or chosen:
                look = {"rows": min(6, len(options) + 1), "layout": NARROW}
                self.filters[name] = widgets.SelectMultiple(options=options, value=chosen, **look)
                self.filters[name].observe(lambda _: self._follow("latency", "spectrum", "timeline", "slowest", "failures"), "value")
        self._row.children = [widgets.VBox([widgets.Label(text.line(name)), one]) for name, one in self.filters.items()]
        self._say()

    def _say(self) -> None:
        n, every, where = int(self.chosen.sum()), len(self.opened.events), events.written(self.where)
        how = f"As a parameter: where = {where!r}" if where else "Nothing is filtered; Ctrl and a click choose several."
        self.note.value = html.escape(text.line(f"{counted(n, self.opened.events.source.things)} of {every:,} chosen. {how}"))

    def _changed_run(self, change: Mapping[str, Any]) -> None:
        if self._is_changing:
            return
        try:
            self.opened = self._open(change["new"])
        except TapecheckError as error:
            self._is_changing = True
            self.run.value = change["old"]  # of which everything on screen is
            self._is_changing = False
            self.note.value = html.escape(text.line(str(error)))
            return
        known = {name: self.opened.events.counts(name) for name in self.where if name in self.opened.events.columns}
        self._is_changing = True
        self._filter({name: [one for one in self.where[name] if one in values] for name, values in known.items()}, self.by.value)
        self._is_changing = False
        self._follow(*self._shown)

    def _follow(self, *names: str) -> None:
        """Show anew what is on screen and has changed; what cannot be shown is said in its place."""
        self._say()
        for name in names:
            if name in self._shown and not self._is_changing:
                try:
                    found = self.part(name)
                except TapecheckError as error:
                    found = text.markdown(str(error))
                if isinstance(found, dict) and MIME in found:
                    notebook.amend(**{name: DRAWING})  # JupyterLab leaves a figure as it is while another takes its place
                notebook.amend(**{name: found})

    # what is shown

    def _ipython_display_(self) -> None:
        """Show the filters; where there is no kernel, a line stands for them."""
        view = {"model_id": self.box.model_id, "version_major": 2, "version_minor": 0}
        notebook.show(filters={VIEW: view, "text/plain": f"Filters of {self.opened.name}: {', '.join(self.filters)}"})

    def show(self, *names: str) -> None:
        """Display parts, which then follow the filters."""
        for name in names:
            notebook.show(**{name: self.part(name)})
            self._shown[name] = None

    def part(self, name: str) -> Any:
        """Return a part as a notebook displays it: Markdown, or a bundle of MIME types."""
        found = getattr(self, name)()
        return found.bundle() if isinstance(found, Drawn) else found if isinstance(found, str) else page.table(*found)

    def runs(self) -> tuple[pd.DataFrame, str]:
        """List the recorded runs."""
        frame, n = self.catalog.frame(), len(self.catalog.runs)
        left = f"; the newest {len(frame)} are listed, the others can be picked too" if len(frame) < n else ""
        return frame, f"{counted(n, 'recorded runs')}{left}."

    def latency(self) -> Drawn:
        """Draw how long each row took, over time."""
        return figures.latency(self.layers())

    def spectrum(self) -> Drawn:
        """Draw the percentiles, of a load run beside the objectives by which it was judged."""
        return figures.spectrum(self.layers(), self.opened.objectives if self.opened.head.validation == "load" else ())

    def timeline(self) -> Drawn:
        """Draw what happened when: of a backfill by worker, of drills by view, and of others how many ended a second."""
        layers, head = self.layers(), self.opened.head
        if head.validation == "backfill":
            return figures.stages(layers[0])
        if head.validation == "rto_rpo":
            slow_s = catalogs.read_plan(self.opened, self.plan.value).prober.slow_s
            return figures.drills(layers[0], cast(Recording, self.opened.recording), slow_s)
        return figures.rates(layers)

    def slowest(self) -> tuple[pd.DataFrame, str]:
        """List the slowest rows."""
        found = self.opened.events.slowest(self.chosen)
        return found, self._of_all(f"The {len(found):,} slowest of {{}}; moments count from the first.")

    def failures(self) -> tuple[pd.DataFrame, str]:
        """List failures by kind, status and what was asked."""
        found, left_out = self.opened.events.failures(self.chosen)
        left = f"; {counted(left_out, 'kinds')} with fewer are not listed" if left_out else ""
        return found, self._of_all(f"{(self.opened.events.failed & self.chosen).sum():,} of {{}} failed{left}.")

    def _of_all(self, said: str) -> str:
        """Say something of all chosen rows; of a run without rows nothing is known."""
        things = self.opened.events.source.things
        return said.format(counted(int(self.chosen.sum()), things)) if len(self.chosen) else f"No single {things} were recorded."

    def verdict(self) -> str:
        """Say what the run says under the plan and objectives of the fields; the whole run, whatever the filter."""
        return self._judged()[0]

    def _judged(self) -> tuple[str, Result]:
        asked = (self.plan.value, self.objectives.value)
        found: tuple[str, Result] = self._once("judged", (self.opened.run.folder, asked), lambda: catalogs.judged(self.opened, *asked))
        return found

    def checks(self) -> tuple[pd.DataFrame, str]:
        """List every objective with the bound that decided, the worst verdicts first."""
        found = validation.checks(self._judged()[1].checks).reset_index()
        found.attrs.clear()  # judged again, they are in no file
        return found, f"{counted(len(found), 'checks')}, of the whole run."

    # the page

    def write(self) -> "Written":
        """Write all parts as a page that hovers and zooms without a kernel and without network."""
        drawn = [self.latency(), self.spectrum(), self.timeline()]
        tables = {"Verdict": self.checks(), "The slowest": self.slowest(), "What failed": self.failures()}
        file, head = None, self.opened.head
        if self.settings.out:
            file = config.outputs(self.settings.out) / "explore" / f"{head.validation}-{self.opened.run.folder.name}.html"
            whole = page.html_page(self.opened, self._judged()[1], drawn, tables, events.written(self.where))
            folders.write_file(file, whole.encode())
        return Written(result=self._judged()[1], file=file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The page as a notebook shows it: where it is, if it is anywhere, and for a batch the verdict on it."""

    result: Result
    file: Path | None

    def _ipython_display_(self) -> None:
        where = f"page written to {config.shown(self.file)}" if self.file else "page not written (out is empty)"
        bundle = Recorded(result=self.result, folder=None)._repr_mimebundle_()
        whose = text.line(f"{self.result.validation} of {self.result.target.name}, run {self.result.run_id}")
        notebook.show(
            recorded={
                "text/plain": where,
                Recorded.MIME: {**bundle[Recorded.MIME], "figures": [whose, where], "measured_s": None, "is_judged": True},
            }
        )
