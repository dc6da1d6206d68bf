"""The ledger of a batch: what became of each of its runs, for its summary and for who resumes it. It starts none of them."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from tapecheck import lockfiles
from tapecheck.batches.plan import Value
from tapecheck.config import Model
from tapecheck.errors import ConfigError, Problem
from tapecheck.reports import exports
from tapecheck.reports.overview import Broken, Entry, Overview, Standing
from tapecheck.runs import folders, outcomes
from tapecheck.runs.folders import Run
from tapecheck.runs.outcomes import CRASHED, Outcome, Recorded

BATCHES = "batches"  # the folder of all ledgers
NOT_RUN = "not run: the batch ended before"
ENDED = ("exit_code", "duration_s", "message", "brief", "starts")  # what an entry says of an `Outcome`, beside its folder


class LedgerEntry(Model):
    """What is known of one run of a batch.

    `key` is the same as long as parameters, plan and target say the same; `began` is when it last was begun, in seconds since 1970;
    `folder`, below the output folder, holds the run, or what is left of it; `lost` names the workers that died with it.
    """

    key: str
    name: str
    validation: str
    parameters: Mapping[str, Value]
    began: float | None = None
    exit_code: int | None = None
    duration_s: float = 0.0
    message: str = ""
    folder: str | None = None
    brief: Mapping[str, Any] = Field(default={})
    starts: int = 0
    worker: str = ""
    lost: tuple[str, ...] = ()


class _Ledger(Model):
    schema_version: int = 1
    batch: str
    exit_code: int
    runs: tuple[LedgerEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The runs of a batch by key, in order; each change is on disk before anything follows from it."""

    batch: str
    out: Path
    entries: dict[str, LedgerEntry]

    @classmethod
    @contextmanager
    def opened(cls, file: str, planned: Sequence[LedgerEntry], out: Path, *, resume: bool) -> Iterator[Self]:
        """Give the ledger of a batch: as it was left, where it is resumed, else a new one.

        A run that is recorded is known from the ledger or, if the batch died before it was noted, found among the recorded runs.

        Raises:
            ConfigError: another process runs this batch, the ledger cannot be read, or it is that of another file of this name.
        """
        ledger = cls(batch=file, out=out, entries={one.key: one for one in planned})
        own = lockfiles.hold(ledger.folder, f"batch {file}")
        try:
            first = next(one for one in lockfiles.holders(ledger.folder) if one.is_there)
            if first.file != own:
                got, allowed = f"a batch that runs already, {first}", "one at a time; wait for it, or choose another --out"
                raise ConfigError([Problem(file=file, key="(file)", got=got, allowed=allowed)])
            for known in ledger._left(resume=resume):
                if known.key in ledger.entries:
                    ledger.entries[known.key] = known if ledger._is_there(known) else ledger._found(known)
            ledger.write()
            yield ledger
        finally:
            lockfiles.release(own)

    @property
    def folder(self) -> Path:
        """Return where the ledger and the reports of the batch are."""
        return self.out / BATCHES / Path(self.batch).stem

    @property
    def file(self) -> Path:
        """Return the ledger itself, which is the summary as JSON too."""
        return self.folder / "batch.json"

    def _left(self, *, resume: bool) -> tuple[LedgerEntry, ...]:
        """Return the runs to resume; the ledger of another batch of this name is not touched, unless that file is gone."""
        try:
            left = _Ledger.model_validate_json(self.file.read_bytes())
        except FileNotFoundError:
            return ()
        except ValueError:
            if not resume:
                return ()
            got, allowed = "a ledger that cannot be read", "what a batch has left; begin anew without --resume"
            raise ConfigError([Problem(file=str(self.file), key="(file)", got=got, allowed=allowed)]) from None
        if (other := Path(left.batch)).exists() and not (Path(self.batch).exists() and other.samefile(self.batch)):
            got, allowed = f"the ledger of {other}", f"that of {self.batch}; rename one of the two files, or choose another --out"
            raise ConfigError([Problem(file=str(self.file), key="batch", got=got, allowed=allowed)])
        return left.runs if resume else ()

    def _is_there(self, entry: LedgerEntry) -> bool:
        return bool(entry.brief) and entry.folder is not None and (self.out / entry.folder / folders.RESULT).is_file()

    def _found(self, entry: LedgerEntry) -> LedgerEntry:
        """Return an entry with the run that was recorded of it unnoticed, or as one that is to be run."""
        run = None if entry.began is None or entry.exit_code is not None else self._recorded(entry, entry.began)
        if run is None or run.head is None:
            return self.entries[entry.key]
        brief = Recorded(result=run.head, folder=run.folder).brief()
        end = {"exit_code": outcomes.code_of(brief), "folder": str(run.folder.relative_to(self.out)), "brief": brief}
        return self.entries[entry.key].model_copy(update={**end, "began": entry.began, "starts": 1, "worker": entry.worker})

    def _recorded(self, entry: LedgerEntry, since: float) -> Run | None:
        wanted, claimed = {**entry.parameters, "out": str(self.out)}, {one.folder for one in self.entries.values()}
        for run in folders.each(self.out, [entry.validation]):
            is_new = run.head is not None and (run.folder / folders.RESULT).stat().st_mtime >= since
            if is_new and run.result["parameters"] == wanted and str(run.folder.relative_to(self.out)) not in claimed:
                return run
        return None

    def todo(self) -> list[str]:
        """Return the keys of the runs that are not recorded, in order."""
        return [key for key, one in self.entries.items() if not one.brief]

    def change(self, key: str, **update: object) -> None:
        """Note something of a run."""
        self.entries[key] = self.entries[key].model_copy(update=update)
        self.write()

    def begin(self, key: str, worker: str = "") -> None:
        """Note that a run is begun now."""
        self.change(key, began=time.time(), exit_code=None, message="", folder=None, worker=worker)

    def end(self, key: str, end: Outcome) -> None:
        """Note how a run ended, and say so; one that recorded nothing is run again by who resumes the batch."""
        self.change(
            key, **{name: getattr(end, name) for name in ENDED}, folder=str(end.folder.relative_to(self.out)) if end.folder else None
        )
        done, one = sum(one.exit_code is not None for one in self.entries.values()), self.entries[key]
        print(f"[{done}/{len(self.entries)}] {one.name}: {end.row()[1]} {one.worker}".rstrip(), file=sys.stderr, flush=True)

    def write(self) -> None:
        """Write it as it is now."""
        data = _Ledger(batch=self.batch, exit_code=outcomes.worst(self.outcomes()), runs=tuple(self.entries.values()))
        folders.write_file(self.file, data.model_dump_json(indent=2).encode())

    # what it says

    def outcomes(self) -> list[Outcome]:
        """Return how each run ended, under its name; one that has not is like one that crashed."""
        found = []
        for one in self.entries.values():
            known = {name: getattr(one, name) for name in ENDED}
            ended = known if one.exit_code is not None else {**known, "exit_code": CRASHED, "message": NOT_RUN, "is_started": False}
            found.append(Outcome(validation=one.name, folder=self.out / one.folder if one.folder else None, **ended))
        return found

    def moved(self) -> list[str]:
        """Say of each run that a worker died with what became of it, a line each."""
        dead = ((one, f"{one.name}: {' and '.join(one.lost)}") for one in self.entries.values() if one.lost)
        return [f"{said}; done again by {one.worker}" if len(one.lost) == 1 else said for one, said in dead]

    def junit(self) -> str:
        """Write the checks of its runs as JUnit XML: one suite a run, a case a check; a run that is not recorded is an error."""
        standings = []
        for one, end in zip(self.entries.values(), self.outcomes(), strict=True):
            run = folders.read(end.folder) if one.brief and end.folder else None
            entry = Entry(folder=run.folder, link="", result=run.head, figure=None, main=None) if run and run.head else None
            broken = () if entry else (Broken(validation=one.validation, run_id=one.name, link="", problem=end.message),)
            standings.append(Standing(validation=one.validation, name=one.name, entry=entry, trend=(), since=broken))
        return exports.junit(Overview(entries=(), broken=(), standings=tuple(standings)))
