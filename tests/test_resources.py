"""CPU and memory are those of the named processes, each name by itself; a name stands for what it says and never for this process."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orphans import orphan, orphans

from tapecheck import resources
from tapecheck.resources import MACHINE, OTHERS, Watch, is_command, locate
from tapecheck.target.file import ProcessSelector

BUSY = "import time; end = time.monotonic() + 100\nwhile time.monotonic() < end: pass"
IDLE = "import sys; print('runs', flush=True); sys.stdin.read()"
ZOMBIE = """import os, sys
pid = os.fork() or os._exit(0)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print(pid, flush=True)
sys.stdin.read()"""
SERVE = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"


def used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_a_busy_process_reads_what_the_system_says_it_used() -> None:
    """Its busy cores, over the time between two looks, add up to the CPU time that it gained, and are not split between two names."""
    with orphan(sys.executable, "-c", BUSY) as busy:
        selector, child = ProcessSelector(pid=busy.process.pid), busy.process
        began_ns, before_s = time.monotonic_ns(), used_s(child)
        with Watch({"a": selector, "b": selector}, period_s=0.1) as watch:
            while (gained_s := used_s(child) - before_s) < 1.5:
                time.sleep(0.05)
        frame, most_s = watch.table().to_pandas(), used_s(child) - before_s
    for name in ("a", "b"):
        own = frame[frame.process == name]
        assert 0.6 * gained_s < float(np.sum(own.cpu_ratio * np.diff(own.time_ns, prepend=began_ns))) / 1e9 < 1.6 * most_s
    assert (frame[frame.process.isin(["a", "b"])].rss_mb > 1).all()


def test_what_else_keeps_the_machine_busy_is_told_apart() -> None:
    """The same busy loop counts for the others as long as it is neither watched nor our child, and for the machine in any case."""
    program, wait = sys.executable, "import signal; signal.pause()"
    with orphan(program, "-c", "while True: pass") as busy, orphan(program, "-c", wait) as idle:
        used = {}
        for name, process in (("idle", idle), ("busy", busy)):
            began_ns = time.monotonic_ns()
            with Watch({name: ProcessSelector(pid=process.process.pid)}, period_s=0.1) as watch:
                before_s = used_s(busy.process)
                while (gained_s := used_s(busy.process) - before_s) < 1.5:
                    time.sleep(0.05)
                until_ns = time.monotonic_ns()
                while sum(row["process"] == MACHINE and row["time_ns"] > until_ns for row in watch.table().to_pylist()) < 2:
                    time.sleep(0.05)  # until a look that began after that has been noted
            frame = watch.table().to_pandas()
            own = [frame[frame.process == one] for one in (OTHERS, MACHINE)]
            used[name] = (gained_s, *(float(np.sum(one.cpu_ratio * np.diff(one.time_ns, prepend=began_ns))) / 1e9 for one in own))
    gained, others, machine = used["idle"]
    assert others > 0.6 * gained, "whatever else runs comes on top"
    assert machine >= others
    gained, others, machine = used["busy"]
    assert others < machine - 0.6 * gained, "it is watched, so it is none of the others"


def test_how_busy_the_others_are_is_unknown_where_this_process_may_not_use_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of work on other cores that is known and work on ours that is not, the difference says nothing; on all cores it does."""
    count = len(psutil.cpu_times(percpu=True))
    for allowed, is_known in ((range(count), True), (range(count - 1), False)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=allowed: set(cores), raising=False)
        with Watch({"a": ProcessSelector(pid=1)}, period_s=0.02) as watch:
            monkeypatch.setattr(watch, "_roots", {"a": [psutil.Process(os.getppid())]})
            watch._sample(0)
            watch._sample(10**9)
        assert ({OTHERS, MACHINE} <= set(watch.table().column("process").to_pylist())) == is_known


def test_how_busy_the_others_are_is_unknown_where_the_target_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name, with one that stands for nothing, or where the system does not tell: no figure, and never 0."""
    own = ProcessSelector(pid=os.getppid())
    monkeypatch.setattr("tapecheck.resources.locate", lambda selector: [psutil.Process(os.getppid())] if selector is own else [])
    for selectors in ({}, {"gone": ProcessSelector(command="no-such-command-7f3a")}, {"a": own, "gone": ProcessSelector(pid=1)}):
        with Watch(selectors, period_s=0.02) as watch:
            time.sleep(0.2)
        assert not {OTHERS, MACHINE} & set(watch.table().column("process").to_pylist())

    def untold(percpu: bool) -> None:
        raise NotImplementedError

    monkeypatch.setattr(psutil, "cpu_times", untold)
    with Watch({"a": own}, period_s=0.02) as watch:
        time.sleep(0.2)
    assert set(watch.table().column("process").to_pylist()) == {"a"}


def test_a_process_that_is_not_there_leaves_no_rows() -> None:
    """A name that stands for nothing has no figures, rather than zeros."""
    with Watch({"gone": ProcessSelector(command="no-such-command-7f3a")}, period_s=0.05) as watch:
        time.sleep(0.3)
    assert watch.table().num_rows == 0
    assert watch.found == {"gone": 0}


@pytest.mark.parametrize("is_shown", [True, False])
def test_a_process_is_found_by_the_port_that_it_listens_on(monkeypatch: pytest.MonkeyPatch, is_shown: bool) -> None:
    """Also where the system shows its table of connections to root alone; a connection to that port is no listener."""
    if not is_shown:

        def refused(kind: str) -> None:
            raise psutil.AccessDenied

        monkeypatch.setattr(psutil, "net_connections", refused)
    with orphan(sys.executable, "-c", SERVE) as server:
        port = int(server.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)):
            assert locate(ProcessSelector(port=port)) == [server.process]
    assert locate(ProcessSelector(port=port)) == []


API = ["/usr/bin/python3.11", "-S", "/srv/casesapi.py", "18200", "--log", "/var/log/api.log"]
UVICORN = ["/srv/.venv/bin/python", "/srv/.venv/bin/uvicorn", "app:main", "--port", "8000"]
SHELL = "cd /srv && exec python /srv/casesapi.py"


@pytest.mark.parametrize(
    ("text", "words", "program", "is_meant"),
    [
        ("casesapi.py", API, "", True),
        ("/srv/casesapi.py", API, "", True),
        ("srv/casesapi.py", API, "", False),
        ("casesapi", API, "", False),
        ("18200", API, "", False),
        ("python3.11", API, "", True),
        ("python3", API, "", False),
        ("python3", API, "/opt/python3", True),
        ("casesapi.py 18200", API, "", True),
        ("python3.11 -S casesapi.py", API, "", True),
        ("casesapi.py --log", API, "", False),
        ("uvicorn app:main", UVICORN, "", True),
        ("  uvicorn   app:main ", UVICORN, "", True),
        ("uvicorn app", UVICORN, "", False),
        ("casesapi.py", ["sh", "-c", SHELL], "", False),
        ("casesapi.py", ["python", "-c", "subprocess.run(['python', '/srv/casesapi.py'])"], "", False),
        ("casesapi.py", ["backup", "--exclude=/srv/casesapi.py"], "", False),
        ("casesapi.py", ["rsync", "host:/srv/casesapi.py"], "", False),
        ("/opt/my app/api", ["/opt/my app/api", "--fast"], "", True),
        ("server", ["/opt/my", "app/server"], "/opt/my app/server", True),
        ("my", ["/opt/my", "app/server"], "/opt/my app/server", False),
        ("gunicorn", ["tail", "-f", "gunicorn"], "/usr/bin/tail", False),
        ("gunicorn", ["gunicorn: master [app:app]", "20"], "/usr/bin/sleep", True),
        ("gunicorn", ["gunicorn:", "master", "[app:app]"], "/usr/bin/python3.11", True),
        ("uvicorn app:main", ["python", "-Im", "uvicorn", "app:main"], "", True),
        ("uvicorn", ["python", "-W", "uvicorn", "-c", "code"], "", False),
        ("uvicorn", ["python", "-Wuvicorn", "-X", "dev", "-m", "uvicorn"], "", True),
        ("server.js", ["node", "--inspect", "-r", "dotenv/config", "/srv/server.js"], "", True),
        ("casesapi.py", ["bash", "-lc", "/srv/casesapi.py"], "", False),
        ("nginx", ["nginx: master process nginx -g daemon off;"], "/usr/sbin/nginx", True),
        ("anything", [], "", False),
        ("", ["", "x"], "", False),
    ],
)
def test_a_command_is_meant_as_a_whole_or_by_its_file_name(text: str, words: list[str], program: str, is_meant: bool) -> None:
    """The program, its title, a script or module, and what follows; never a part of a word, nor an argument alone."""
    assert is_command(text, words, program) == is_meant


@settings(max_examples=30)
@given(word=st.text(st.characters(exclude_characters="/", exclude_categories=["Z", "C"]), min_size=2), data=st.data())
def test_no_part_of_a_word_is_meant(word: str, data: st.DataObject) -> None:
    """Whatever the word."""
    begin = data.draw(st.integers(0, len(word) - 1))
    end = data.draw(st.integers(begin + 1, len(word)))
    assert is_command(word[begin:end], [f"/srv/{word}"]) == (word[begin:end] == word)


@pytest.fixture(scope="module", autouse=True)
def second_thread() -> Iterator[None]:
    """Give this process a thread beside its first, whose id is no pid."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    yield
    done.set()
    thread.join()


@pytest.fixture(scope="module")
def kin() -> Iterator[list[psutil.Process]]:
    """Give this process, all its ancestors, a child, and a child of that which listens."""
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SERVE!r}])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        own = psutil.Process()
        yield [own, *own.parents(), *own.children(recursive=True)]
        process.stdin.close()


def words_of(processes: list[psutil.Process]) -> list[str]:
    """Every word of their command lines, its file name, its beginning, and whole lines."""
    lines = [resources._words(one) for one in processes]
    words = {word for line in lines for word in line}
    parts = {part for word in words for part in (word.rpartition("/")[2], word[: len(word) // 2])}
    return sorted(text for text in words | parts | {" ".join(line) for line in lines} if text.strip())


def threads_of(process: psutil.Process) -> list[int]:
    """The ids of its threads, of which Linux gives each one that looks like a pid."""
    try:
        return [one.id for one in process.threads()] if psutil.LINUX else []
    except psutil.AccessDenied:
        return []


@settings(max_examples=8)
@given(data=st.data())
def test_no_selector_ever_names_this_process_or_its_kin(kin: list[psutil.Process], data: st.DataObject) -> None:
    """By pid, port or command: neither this process nor any ancestor, child or child's child."""
    with socket.create_server(("127.0.0.1", 0)) as own:
        ports = [own.getsockname()[1], *(c.laddr.port for one in kin[1:] for c in resources._connections(one) if c.status == "LISTEN")]
        fields = {
            "pid": st.sampled_from(sorted({thread for one in kin for thread in (one.pid, *threads_of(one))})),
            "port": st.sampled_from(ports),
            "command": st.sampled_from(words_of(kin)) | st.text(min_size=1).filter(str.strip),
        }
        name = data.draw(st.sampled_from(sorted(fields)))
        selector = ProcessSelector.model_validate({name: data.draw(fields[name]), "all": data.draw(st.booleans())})
        assert not {one.pid for one in locate(selector)} & {thread for one in kin for thread in (one.pid, *threads_of(one))}


def test_a_command_that_names_this_process_still_names_others(tmp_path: Path) -> None:
    """What is spared is this process and its kin, not the name; children of what it names are not counted beside it."""
    script = tmp_path / f"service_{os.getpid()}.py"
    script.write_text(f"import subprocess, sys\nif sys.argv[1:]: subprocess.run([sys.executable, __file__])\n{IDLE}")
    words = [sys.executable, str(script)]
    with orphans(words, [*words, "above"]) as (alone, above), subprocess.Popen(words, stdin=subprocess.PIPE):
        assert {one.pid for one in locate(ProcessSelector(command=script.name))} == {alone.pid, above.pid}


def test_the_next_owner_of_a_pid_is_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid stands for the process that had it first."""
    with orphans([sys.executable, "-c", IDLE], [sys.executable, "-c", IDLE]) as (one, other):
        assert locate(ProcessSelector(pid=one.pid)) == [one]
        monkeypatch.setitem(resources._first_of_pid, one.pid, other)
        assert locate(ProcessSelector(pid=one.pid)) == []


def test_a_dead_process_that_waits_for_its_parent_is_gone() -> None:
    """A zombie can neither be broken nor be back."""
    with orphan(sys.executable, "-c", ZOMBIE) as parent:
        pid = int(parent.stdout.readline())
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert locate(ProcessSelector(pid=pid)) == []


def test_neither_a_thread_nor_the_kernel_is_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal to a thread's id ends the whole process; a kernel's thread has no memory of its own."""
    with orphans([sys.executable, "-c", f"import threading; threading.Thread(target=input).start(); {IDLE}"]) as (one,):
        for thread in set(threads_of(one)) - {one.pid}:
            assert locate(ProcessSelector(pid=thread)) == []
        monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(rss=0, vms=0))
        assert (locate(ProcessSelector(pid=one.pid)) == []) == psutil.LINUX
