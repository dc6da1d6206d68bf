"""Backups: what is dropped comes back as it was backed up, and nothing is dropped for a backup that cannot be relied on."""

import ast
import datetime as dt
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import psycopg
import pytest
from recoveries import ONCE, bar, crash, recording, trial

from tapecheck.__main__ import main
from tapecheck.database import conninfo
from tapecheck.errors import ConfigError
from tapecheck.recovery import actions, analysis, backups, drill, experiment, findings, frames, watchdog
from tapecheck.recovery.backups import Archive, Backup, Backups
from tapecheck.recovery.contradictions import read_plan
from tapecheck.recovery.drill import check_allowed
from tapecheck.recovery.recording import Restore, StoredTable, UnusableBackup
from tapecheck.recovery.validation import Settings, recovery
from tapecheck.sandbox import database
from tapecheck.sandbox.profile import Home
from tapecheck.target.file import RestorableDatabase, Target
from tapecheck.verdict import Verdict

NAME = "backed_up"


def ask(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else None


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Iterator[Backups]:
    """A database of a user's on the sandbox's server: one table has an enum, the other what cannot be hashed; a backup, and a row more."""
    every = (NAME, f"{NAME}_restored", f"{NAME}_other")
    for name in every:
        ask(database_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    ask(database_url, f"CREATE DATABASE {NAME} TEMPLATE template0")
    commands = database.restorable(Home())
    assert not database_url.endswith(NAME)
    one = Backups(commands=commands.model_copy(update={"backups": str(tmp_path / "backups")}), url=conninfo(database_url, dbname=NAME))
    ask(one.url, "CREATE TYPE side AS ENUM ('bid', 'ask')")  # in each database of another OID
    ask(one.url, "CREATE TABLE prices (at int PRIMARY KEY, close float8, t side DEFAULT 'ask')")
    ask(one.url, "CREATE TABLE notes (note json)")
    ask(one.url, "INSERT INTO prices SELECT n, n / 7.0 FROM generate_series(1, 5000) n")
    ask(one.url, """INSERT INTO notes VALUES ('{"a": 1}')""")
    one.back_up()
    ask(one.url, "INSERT INTO prices VALUES (5001, 1)")
    yield one
    for name in every:
        ask(database_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def configured(one: Backups) -> dict[str, Any]:
    return {"database_url": one.url, "database": one.commands.model_dump()}


def facts(*outputs: dict[str, Any]) -> Restore:
    """Return what a drill notes of the outputs of its activities."""
    runs = [{"activity": {"name": "a"}, "status": "succeeded", "output": output} for output in outputs]
    return drill._restore({"run": runs})


def test_what_was_dropped_is_restored_as_it_was_backed_up(made: Backups) -> None:
    """Rows and checksums of every table; what came since the backup is gone, and the only backup kept is the newest."""
    made.back_up()
    ask(made.url, "INSERT INTO prices VALUES (5002, 1)")
    (name,) = (path.name for path in made.folder.iterdir() if path.is_dir())
    dropped = actions.destroy_database(configured(made))
    with pytest.raises(psycopg.OperationalError, match=f'database "{NAME}" does not exist'):
        ask(made.url, "SELECT 1")
    restored = actions.restore_database(configured(made))
    found = facts(dropped, restored)
    assert (found.backup, found.exact, found.different, found.unusable) == (name, True, [], "")
    assert [tables["public.prices"].rows for tables in (found.before, found.saved, found.restored)] == [5002, 5001, 5001]
    assert all(one.checksum for one in found.saved.values())
    assert found.age_s is not None and found.age_s > 0 and found.backup_bytes > 1000
    moments = (dropped["at_ns"], found.began_ns, found.restored_ns, found.verified_ns, found.switched_ns)
    assert list(moments) == sorted(moments)
    assert ask(made.url, "SELECT max(at) FROM prices") == [(5001,)]
    assert actions.restore_database(configured(made)) == {"missing": "nothing"}


def folder_of(one: Backups) -> Path:
    return next(path for path in one.folder.iterdir() if path.is_dir())


def noted(one: Backups, **changes: Any) -> None:
    path = next(one.folder.glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(one: Backups) -> None:
    biggest = max(folder_of(one).iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(biggest, biggest.stat().st_size // 2)


def forget(one: Backups) -> None:
    """Leave a backup as somebody else's tool does, without our note of it."""
    for path in one.folder.glob("*.json"):
        path.unlink()


def of_another(one: Backups) -> None:
    """Put a dump of another database of the same server in place of the backup."""
    ask(one.url, f"CREATE DATABASE {NAME}_other TEMPLATE template0")
    other = Backups(commands=one.commands, url=conninfo(one.url, dbname=f"{NAME}_other"))
    ask(other.url, "CREATE TABLE prices (at int PRIMARY KEY, close float8)")
    other.back_up()


def without_rows(one: Backups) -> None:
    kept = ask(one.url, "DELETE FROM prices RETURNING at"), ask(one.url, "DELETE FROM notes RETURNING note")
    one.back_up()
    ask(one.url, f"INSERT INTO prices SELECT generate_series(1, {len(kept[0])})")


def failing(one: Backups) -> None:
    broken = one.commands.model_copy(update={"backup": ("pg_dump_that_is_not_there",)})
    with pytest.raises(UnusableBackup, match="no backup was made: pg_dump_that_is_not_there did not run: No such file or directory"):
        Backups(commands=broken, url=one.url).back_up()


def unknown(one: Backups) -> None:
    """Leave a backup of which nobody says what is in it."""
    forget(one)
    shutil.rmtree(folder_of(one))
    (one.folder / "dump.sql").write_text("-- nothing")


def occupied(one: Backups) -> None:
    """Have a database of that name that no drill made; it may have views or large objects alone."""
    ask(one.url, f"CREATE DATABASE {NAME}_restored TEMPLATE template0")


def by_somebody_poor(one: Backups) -> dict[str, Any]:
    """Return a configuration of a role that may drop the database, and create none."""
    ask(one.url, "DROP ROLE IF EXISTS poor")
    ask(one.url, "CREATE ROLE poor LOGIN PASSWORD 'p00r' IN ROLE pg_read_all_data")
    ask(one.url, f"ALTER DATABASE {NAME} OWNER TO poor")
    return configured(one) | {"database_url": conninfo(one.url, user="poor", password="p00r")}


FAULTS: list[tuple[Callable[[Backups], object], str]] = [
    (truncate, r"the backup 2\S+ is truncated: \d+\.dat\.gz has [\d,]+ of [\d,]+ bytes"),
    (lambda one: (forget(one), truncate(one)), r"the backup 2\S+ is truncated, or no backup: pg_restore ended with exit code 1: .*file"),
    (lambda one: [path.unlink() for path in folder_of(one).iterdir()], r"the backup 2\S+ is empty: it has no bytes"),
    (without_rows, r"the backup 2\S+ is empty: it has no rows, backed_up has 5,001"),
    (lambda one: shutil.rmtree(one.folder), r"no backup was ever made: \S+/backups holds none"),
    (lambda one: noted(one, at="2033-01-02T03:04:05Z"), r"is older than it says: made at 20\S+ \S+, not 2033-01-02 03:04:05 UTC"),
    (of_another, r"the backup 2\S+ is of another database: backed_up_other, not backed_up"),
    (lambda one: (of_another(one), forget(one)), r"the backup 2\S+ is of another database: backed_up_other, not backed_up"),
    (failing, r"the last backup failed: pg_dump_that_is_not_there did not run"),
    (lambda one: ask(one.url, "CREATE TABLE new (n int)"), r"the backup 2\S+ lacks 1 of 3 tables of backed_up, such as public.new"),
    (occupied, r"the database backed_up_restored, to restore into, is there, and no drill made it: rename or drop it"),
    (unknown, r"the backup dump.sql is truncated, or no backup: pg_restore ended with exit code 1"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "said"), FAULTS)
def test_nothing_is_dropped_for_a_backup_that_cannot_be_relied_on(made: Backups, plant: Callable[[Backups], object], said: str) -> None:
    """Each fault is named before anything is touched."""
    plant(made)
    with pytest.raises(UnusableBackup, match=said):
        actions.destroy_database(configured(made))
    assert ask(made.url, "SELECT count(*) FROM prices") >= [(5000,)]
    assert actions.restore_database(configured(made)) == {"missing": "nothing"}


def test_nothing_is_dropped_that_could_not_be_made_again(made: Backups) -> None:
    """By a role that may not create a database, without the program that restores, or from a backup of which nothing is known."""
    poor = by_somebody_poor(made)
    with pytest.raises(UnusableBackup, match="backed_up was not dropped: permission denied to create database"):
        actions.destroy_database(poor)
    ask(made.url, f"ALTER DATABASE {NAME} OWNER TO CURRENT_USER")
    ask(made.url, "DROP ROLE poor")
    with pytest.raises(UnusableBackup, match="there is no program pg_restore_that_is_not_there to restore with"):
        changed(made, "pg_restore_that_is_not_there", "{backup}").destroy()
    forget(made)
    with pytest.raises(UnusableBackup, match="cannot be checked: no drill has noted what is in it, and its restore command is not"):
        changed(made, "sh", "{backup}").destroy()
    assert ask(made.url, "SELECT count(*) FROM prices") == [(5001,)]
    assert not (made.folder / "destroyed").exists()


def test_a_database_that_only_sounds_alike_is_left_alone(made: Backups) -> None:
    """Names are cut to what PostgreSQL takes, in bytes, and told apart by a hash."""
    long = [Backups(commands=made.commands, url=conninfo(made.url, dbname=f"{'ü' * 25}{n}")).restoring for n in ("staging", "staging2")]
    assert len(set(long)) == 2 and all(len(one.encode()) <= 63 for one in long)
    assert made.restoring == f"{NAME}_restored"


def test_an_interrupted_backup_leaves_no_half_and_no_process(made: Backups, tmp_path: Path) -> None:
    """Be it a file, a folder, or what the command has started itself; what a drill that was killed left is removed by the next one."""
    mark, before = tmp_path / "pid", set(made.folder.iterdir())
    script = f"sh -c 'echo half > {{backup}}; echo $$ > {mark}.part; mv {mark}.part {mark}; exec sleep 600'; true"
    slow = Backups(commands=made.commands.model_copy(update={"backup": ("sh", "-c", script)}), url=made.url)

    def interrupted(*_: Any) -> str:
        while not mark.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(backups, "_finished", interrupted)
        slow.back_up()
    pid = int(mark.read_text())
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [])
    assert set(made.folder.iterdir()) - before == {made.folder / "failed"}
    assert (made.folder / "failed").read_text() == "it was interrupted"
    (made.folder / ".20260101T000000-dead").write_text("half")
    name, _ = made.back_up()
    assert {path.name for path in made.folder.iterdir()} == {name, f"{name}.json"}
    assert (made.folder / f"{name}.json").stat().st_mode & 0o777 == 0o600


def changed(one: Backups, *restore: str) -> Backups:
    return Backups(commands=one.commands.model_copy(update={"restore": restore}), url=one.url)


def test_a_restore_that_fails_is_made_anew_by_who_takes_over(made: Backups) -> None:
    """The watchdog restores what a runner that was killed has left half; what the first attempt made is no obstacle."""
    made.destroy()
    with pytest.raises(UnusableBackup, match=r"the backup 2\S+ could not be restored: sh ended with exit code 3: disk full"):
        changed(made, "sh", "-c", "echo disk full >&2; exit 3").restore()
    rollback = {"type": "action", "name": "restore", "provider": {"type": "python", "module": experiment.OURS, "func": "restore_database"}}
    plan = {"title": "t", "description": "d", "method": [], "rollbacks": [rollback], "configuration": configured(made)}
    armed = json.dumps({"experiment": plan, "allow_remote": False})
    assert watchdog.keep(io.StringIO(f"arm {armed}\n")) == 0
    assert ask(made.url, "SELECT count(*) FROM prices") == [(5000,)]


def test_a_half_empty_restore_is_found_by_its_rows(made: Backups) -> None:
    """A command that ends well has restored nothing by that."""
    words = made.commands.restore
    half = changed(made, words[0], "--schema-only", *words[1:])
    found = facts(actions.destroy_database(configured(half)), actions.restore_database(configured(half)))
    assert found.different == ["public.notes", "public.prices"]
    (one,) = summarized(found).restored
    assert one.unusable == "2 tables came back otherwise than they were backed up, such as public.notes: 0 of 1 rows"


def test_no_password_is_an_argument(made: Backups, tmp_path: Path) -> None:
    """A command finds server, database and password in libpq's environment."""
    script = "echo $PGDATABASE $PGPASSWORD $PGPORT > {backup}; echo $0 $@ >> {backup}"
    own = made.commands.model_copy(update={"backups": str(tmp_path / "own"), "backup": ("sh", "-c", script, "{database}")})
    url = conninfo(made.url, password="f1ndme")
    one = Backups(commands=own, url=url)
    with one._started(own.backup, backup=str(tmp_path / "backup"), database="other") as process:
        assert process.communicate() == ("", "")
    given, said = (tmp_path / "backup").read_text().splitlines()
    assert given.split()[:2] == ["other", "f1ndme"] and said == "other"
    assert "f1ndme" not in repr(one)


# ---- what a drill needs ----

RESTORABLE = RestorableDatabase(expendable=True, backups="b", restore=("pg_restore", "{backup}"))
WITH_DATABASE = {"source_url": "http://127.0.0.1:9", "database_url": "postgresql://u@127.0.0.1/d"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"allow_drills": False}, "allow_drills: got false, while it is to be broken by database_restored_from_dump"),
    ({"database": None}, "target mine without a section database, which this drill drops; allowed: database: {expendable: true, backups"),
    ({"database": {**RESTORABLE.model_dump(), "expendable": False}}, "target mine whose database is not marked as expendable"),
    ({"backfill": None}, "target mine without database_url"),
]


def test_the_commands_of_a_target_file_need_its_leave(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the sandbox too; `check` names them. A drill that runs none of them is not refused."""
    own = {"name": "mine", "kind": "sandbox", "requests": {"status": "GET /"}, "database": RESTORABLE.model_dump()}
    target = Target.model_validate(own)
    with pytest.raises(ConfigError, match=r"got false, while database_restored_from_dump runs pg_restore '\{backup\}'; allowed"):
        recovery.check_target(target, None, {"drills": "database_restored_from_dump"})
    recovery.check_target(target, None, {"drills": "database_killed"})
    recovery.check_target(target.model_copy(update={"allow_drills": True}), None, {"drills": "database_restored_from_dump"})
    (file := tmp_path / "mine.yaml").write_text(json.dumps(target.model_dump(mode="json", exclude_defaults=True)))
    assert main(["check", str(file)]) == 0
    assert "needs `allow_drills: true` on the target: pg_restore '{backup}'\n" in capsys.readouterr().out


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_a_target_that_may_not_lose_its_database_is_refused(changes: dict[str, Any], said: str) -> None:
    """Before anything is opened or touched."""
    base = {"name": "mine", "kind": "external", "base_url": "http://127.0.0.1:9", "requests": {"status": "GET /"}, "allow_drills": True}
    base |= {"database": RESTORABLE.model_dump(), "backfill": WITH_DATABASE}
    drills = experiment.chosen("database_restored_from_dump")
    with pytest.raises(ConfigError) as caught:
        check_allowed(Target.model_validate(base | changes), drills)
    assert said in str(caught.value)
    assert drills[0].destroys and not experiment.chosen("database_killed")[0].destroys


def test_an_action_refuses_a_database_that_is_not_expendable(made: Backups) -> None:
    """However a drill is run: `chaos run` reads no target file."""
    kept = configured(made)["database"] | {"expendable": False}
    for action in (actions.back_up, actions.destroy_database, actions.restore_database):
        with pytest.raises(RuntimeError, match="not marked `expendable: true`; nothing was touched"):
            action({"database_url": made.url, "database": kept})
        with pytest.raises(RuntimeError, match="names no database; nothing was touched"):
            action({"database_url": "", "database": {}})


def test_what_takes_long_is_left_out_of_a_short_profile() -> None:
    """A name that no drill has is refused with those that there are."""
    left_out = read_plan("config/rto_rpo.yaml", profile="once").left_out
    assert "database_restored_from_dump" in left_out
    assert not {drill.name for drill in experiment.chosen("all", left_out)} & set(left_out)
    names = [drill.name for drill in experiment.chosen("all")]
    given = {"plan": "config/rto_rpo.yaml", "target": "t", "out": "", "run": "new", "profile": "once", "drills": "all"}
    for tried, said in ((names[:2], f"2 of {len(names)} drills"), (names, "")):
        found = SimpleNamespace(recording=recording([(trial(name), {}) for name in tried]))
        assert recovery.scope(Settings.model_validate(given), cast(Any, found)) == said
    with pytest.raises(ConfigError, match=r"left_out: got no_such; allowed: names of drills: api_frozen"):
        experiment.chosen("all", ("no_such",))


# ---- what is made of it ----

AT = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
ROWS = {"a": StoredTable(rows=9, checksum="f")}
WHOLE = {"backup": "b", "backup_at": AT, "destroyed_at": AT + dt.timedelta(hours=1), "saved": ROWS, "before": ROWS, "restored": ROWS}
WHOLE |= {"switched_ns": 1}


def summarized(found: Restore, *, plan: Any = ONCE, bars: Any = ()) -> analysis.RecoverySummary:
    one = trial("database_restored_from_dump", failure="database_destroyed", restore=found, gone_bars=0)
    return analysis.summarize(recording([(one, {"service": crash(1.0, 2.0)})], bars=bars), plan)


JUDGED: list[tuple[dict[str, Any], str, Verdict, str]] = [
    ({}, "unusable_backups <= 0", Verdict.PASS, "met"),
    ({}, "backup_age_s <= 86400", Verdict.PASS, "met"),
    ({"destroyed_at": AT + dt.timedelta(days=3)}, "backup_age_s <= 86400", Verdict.FAIL, "misses"),
    ({"destroyed_at": AT - dt.timedelta(seconds=9)}, "backup_age_s <= 86400", Verdict.INVALID, "its age is below 0"),
    ({"noted": False}, "backup_age_s <= 86400", Verdict.PASS, "the age is that of its files"),
    ({"backup_at": None}, "backup_age_s <= 86400", Verdict.NO_DATA, "nothing was measured"),
    ({"restored": {}}, "unusable_backups <= 0", Verdict.FAIL, "such as a: 0 of 9 rows"),
    ({"restored": {}, "switched_ns": None}, "unusable_backups <= 0", Verdict.FAIL, "was dropped, and was not restored"),
    ({"unusable": "no backup was ever made"}, "unusable_backups <= 0", Verdict.FAIL, "no backup was ever made"),
    ({"exact": True, "restored": {"a": StoredTable(rows=9)}}, "unusable_backups <= 0", Verdict.FAIL, "1 tables came back otherwise"),
    ({"restored": {"a": StoredTable(rows=8)}}, "unusable_backups <= 0", Verdict.PASS, "met"),
    ({"restored": {"a": StoredTable(rows=0)}}, "unusable_backups <= 0", Verdict.FAIL, "such as a: 0 of 9 rows"),
    ({"restored": {"b": StoredTable(rows=9)}, "saved": {}}, "unusable_backups <= 0", Verdict.FAIL, "such as a: 0 of 9 rows"),
]


@pytest.mark.parametrize(("changes", "objective", "verdict", "why"), JUDGED)
def test_a_backup_is_judged_by_what_came_back(changes: dict[str, Any], objective: str, verdict: Verdict, why: str) -> None:
    """And by its age; what fails is a finding too."""
    summary = summarized(Restore(**WHOLE | changes))
    (check,) = (one for one in analysis.check(summary, ONCE) if one.objective == objective)
    assert (check.name, check.verdict) == ("database_destroyed", verdict)
    assert why in check.reason
    names = {one.name for one in findings.find(recording(), summary, ONCE)}
    wanted = {"backup_age_s <= 86400": "old_backup"}.get(objective, "unusable_backup")
    assert (wanted in names) == (verdict == Verdict.FAIL)


def test_the_age_of_a_backup_that_the_drill_made_itself_is_not_judged() -> None:
    """It is always young, which says nothing of how often one is made; the table says whose it is."""
    summary = summarized(Restore(**WHOLE, made="b"))
    assert [one.objective for one in analysis.check(summary, ONCE) if one.name == "database_destroyed"][1:] == ["unusable_backups <= 0"]
    assert frames.restores(summary).to_dict("records")[0]["backup"] == "3,600 s old (the drill made it), 0.0 MB"


def test_without_a_note_a_backup_is_as_old_as_its_files() -> None:
    """An archive says when by a clock of some time zone: a copy is no younger than that allows."""
    files = {"files": {"a": 1}, "written": AT}
    archive = Archive(at=AT - dt.timedelta(days=2), database="d", tables=frozenset())
    assert Backup(name="b", **files).at == AT
    assert Backup(name="b", **files, archive=archive).at == AT - dt.timedelta(hours=36)


def test_what_upstream_still_has_is_delayed_and_the_rest_lost() -> None:
    """By tier, in minutes of the symbol with most; a plan that counts all that is gone counts all of it."""
    of = {"drill": "database_restored_from_dump", "refetchable": True}
    bars = [bar("SPY", 5 * n, "lost", **of) for n in range(3)] + [bar("AAPL", 0, "lost", **of | {"refetchable": False})]
    summary = summarized(Restore(**WHOLE, refetch_s=0.25), bars=[*bars, bar("AAPL", 5, "lost", **of | {"refetchable": None})])
    critical, standard = summary.rpo["critical"], summary.rpo["standard"]
    assert (critical.lost_bars, critical.lost_minutes, critical.delayed_bars, critical.delayed_minutes) == (0, 0.0, 3, 15.0)
    assert (standard.lost_bars, standard.lost_minutes, standard.unrecoverable_bars, standard.delayed_bars) == (2, 10.0, 1, 0)
    (row,) = frames.restores(summary).to_dict("records")
    assert row["since the backup (min, worst symbol)"] == "critical 15, standard 10"
    assert (row["upstream still has (bars)"], row["gone for good (bars)"], row["fetched again in (s)"]) == ("3 of 5", "1", "0.25")
    strict = ONCE.rto | {"database_destroyed": ONCE.rto["database_destroyed"].model_copy(update={"loss": "acknowledged"})}
    counted = summarized(Restore(**WHOLE), plan=ONCE.model_copy(update={"rto": strict}), bars=bars)
    assert counted.rpo["critical"].lost_bars == 3


def test_an_archive_says_when_and_of_what_it_is() -> None:
    """As `pg_restore --list` prints it."""
    listing = (
        ";\n; Archive created at 2026-11-30 17:24:03 UTC\n;     dbname: my db\n;     Format: DIRECTORY\n"
        "226; 1259 16385 TABLE public prices me\n2609; 0 16385 TABLE DATA public prices me\n2611; 0 2 TABLE DATA x my notes me\n"
    )
    found = Archive.of(listing)
    assert (found.at, found.database) == (dt.datetime(2026, 11, 30, 17, 24, 3, tzinfo=dt.UTC), "my db")
    assert found.tables == {"public.prices", "x.my notes"}
    with pytest.raises(ValueError, match="no time or database"):
        Archive.of("")


OF_THE_SANDBOX = ("scheduler-health", "/api/v1", "checkpoints", "refreshed_at", "FROM tapecheck", "pending", "redone", "upstream.key")


def test_the_recovery_room_knows_no_name_of_the_sandbox() -> None:
    """Neither of its JSON nor of its tables, in any text but docstrings."""
    for file in Path(analysis.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        docs = {ast.get_docstring(node, clean=False) for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)}
        texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)} - docs
        assert not [(file.name, text, name) for text in texts for name in OF_THE_SANDBOX if name in text]
