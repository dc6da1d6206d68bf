"""Where samples are kept: in files and memory that are bounded and may be full, and in a table that is selected from."""

import errno
import resource
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest
import samples
import servers
from engines import requests_for, work_for
from servers import Server

from tapecheck.errors import MeasurementError
from tapecheck.load import samples as rows
from tapecheck.load.engine import recorder
from tapecheck.load.engine.engine import measure
from tapecheck.load.engine.recorder import ErrorKind, joined
from tapecheck.load.engine.work import allow_connections, refused_connections
from tapecheck.load.samples import UNITS, table_of
from tapecheck.recording import covered_s

# ---- while they are measured ----


def test_more_connections_than_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how many are possible, if any are."""
    monkeypatch.setattr(resource, "getrlimit", lambda what: (64, 64))
    assert "at most 0, since a process may have 64 files open and would need 74" in (refused_connections(10) or "")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (100, 300))
    with pytest.raises(MeasurementError, match=r"1,000 connections; allowed: at most 236, .* would need 1,064: .*\(ulimit -n 1064\)"):
        allow_connections(1000)


def script(code: str, *words: object) -> str:
    """Return what a script prints."""
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *map(str, words)], capture_output=True, text=True, check=False)
    assert not out.stderr
    return out.stdout


def test_files_are_for_connections() -> None:
    """150 connections work in a process that may allow itself more than 100 files; where 36 take every file, all rows are there too."""
    code = """
        import resource, sys
        port, = map(int, sys.argv[1:])
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 2000))
        from tapecheck.load.engine import recorder
        from tapecheck.load.engine.engine import measure
        from tapecheck.load.engine.work import Address, PreparedRequest, Work
        request = PreparedRequest(values={}, method="GET", url="", raw=b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n", headers=())
        address = Address(host="127.0.0.1", port=port)
        def measured(users, rounds):
            shape = dict(executor="burst", concurrency=users, rounds=rounds, max_connections=users)
            samples = measure(Work(address=address, requests=(request,), **shape)).samples
            print(len(samples), set(samples["error"].tolist()))
        measured(150, 1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        recorder.CHUNK_ROWS = 8
        measured(36, 30)
        measured(36, 30)
    """
    with Server(servers.fast) as server:
        assert script(code, server.port) == "150 {0}\n1080 {0}\n1080 {0}\n"


@pytest.mark.parametrize("after", [0, 1])
def test_no_room_for_samples_ends_the_measurement(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A full disk is said at once and in mid-run: no hang, no half result that looks whole."""
    reserve, calls = recorder._reserve, iter(range(100))

    def full(*args: int) -> None:
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, "planted")
        reserve(*args)

    monkeypatch.setattr(recorder, "_reserve", full)
    monkeypatch.setattr(recorder, "CHUNK_ROWS", 8)  # ask for more room soon
    with Server(servers.fast) as server, pytest.raises(MeasurementError, match="no space left"):
        measure(work_for(server, duration_s=20.0))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_for_each_stored_sample_is_its_row() -> None:
    """300,000 samples through the engine's own bookkeeping take at most 80 bytes each at the peak, joined and all."""
    code = """
        import asyncio, time
        from tapecheck.load.engine import engine
        from tapecheck.load.engine.pool import Pool
        from tapecheck.load.engine.protocol import Connection
        from tapecheck.load.engine.recorder import SampleWriter, scratch, written
        from tapecheck.load.engine.work import Address, PreparedRequest, Work
        request = PreparedRequest(values={}, method="GET", url="", raw=b"", headers=())
        class Transport(asyncio.Transport):
            def write(self, data): pass
        def peak():
            return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
        async def main():
            with scratch(1_000_000) as file:
                work = Work(address=Address(host="", port=1), requests=(request,), executor="closed")
                pool = Pool(work, SampleWriter(file.fileno()))
                connection = Connection(pool)
                connection.connection_made(Transport())
                def send(count):
                    for _ in range(count):
                        pool.submit(time.monotonic_ns())
                        connection.data_received(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
                send(50_000)
                before = peak()
                send(300_000)
                samples = written(pool.recorder.rows(2_000_000))
                assert len(samples) == 350_000 and (samples["error"] == 0).all()
                print((peak() - before) / 300_000)
        asyncio.run(main())
    """
    assert 30 < float(script(code)) < 80


# ---- the table ----


def test_the_table_has_every_row_value_and_unit() -> None:
    """Each sample keeps the value of every parameter that its request used, and each column says its unit."""
    with Server(servers.timed) as server:
        a, b = requests_for(server.url), requests_for(server.url, template="GET /x?limit={limit}", parameters={"limit": [7]})
        measured = {"many": measure(work_for(server, a, rounds=2)), "one": measure(work_for(server, b))}
    found = {name: one.samples for name, one in measured.items()}
    table = table_of(found, {"many": [one.values for one in a], "one": [one.values for one in b]})
    got = table.to_pydict()
    assert table.num_rows == 30
    assert got["scenario"] == ["many"] * 20 + ["one"] * 10
    assert list(zip(got["symbol"][:6], got["limit"][:6], strict=True)) == [tuple(r.values.values()) for r in a]
    assert set(got["limit"][20:]) == {7}
    assert set(got["symbol"][20:]) == {None}
    assert set(got["error"]) == {"none"}
    assert got["done_ns"][:20] == found["many"]["done_ns"].tolist()
    assert all(table.schema.field(name).metadata[b"unit"] for name in table.column_names)
    assert set(UNITS) <= set(table.column_names)


def recorded() -> pa.Table:
    """Two scenarios; the first two of the second are warm-up, and one of it failed."""
    first, second = samples.burst([1.0, 2.0, 3.0]), samples.burst([10.0, 20.0, 30.0, 40.0], failed={3: ErrorKind.timeout})
    second["warm_up"][:2] = 1
    return samples.recording({"a": first, "b": second}).samples


def test_samples_are_those_of_the_scenario_without_its_warm_up() -> None:
    """And with it, when it is asked for."""
    table = recorded()
    assert rows.counted(table, "a").response_ms().tolist() == [1.0, 2.0, 3.0]
    assert rows.counted(table, "b").response_ms().tolist() == [30.0, 40.0]
    assert len(rows.sent(table, "b")) == 4
    assert len(rows.measured(table)) == 5
    assert rows.counted(table, "b").failed().tolist() == [False, True]
    assert len(rows.counted(table, "nothing sent")) == 0


def test_the_order_and_the_chunks_of_a_table_do_not_matter() -> None:
    """A shuffled table of many chunks has the same samples."""
    table = recorded()
    order = np.random.default_rng(3).permutation(table.num_rows)
    shuffled = pa.concat_tables([table.slice(int(i), 1) for i in order])
    for name in ("a", "b"):
        one, other = rows.counted(table, name), rows.counted(shuffled, name)
        assert sorted(one.response_ms()) == sorted(other.response_ms())
        assert sorted(one.service_ms()) == sorted(other.service_ms())
        assert one.failed().sum() == other.failed().sum()
        assert rows.tally(*reversed(one.codes("error"))) == rows.tally(*reversed(other.codes("error")))


def test_service_time_of_what_was_never_sent_is_unknown() -> None:
    """It is not the time since the beginning of the clock."""
    one = samples.burst([5.0])
    one["sent_ns"] = 0
    assert np.isnan(rows.counted(samples.recording({"a": one}).samples, "a").service_ms()).all()


def test_absent_words_are_empty_and_counts_are_exact() -> None:
    """Over several blocks too."""
    codes = np.tile(np.array([0, 1, 1, 2], np.uint8), 600_000)
    assert rows.tally(codes, ["x", "y", "", "unused"]) == {"x": 600_000, "y": 1_200_000, "": 600_000}


def test_a_pause_between_the_parts_of_a_scenario_is_no_measuring() -> None:
    """Three parts of a second each with ten seconds between them are three seconds, and so are three rounds of a burst."""
    parts = [samples.burst([1000.0]) for _ in range(3)]
    for i, part in enumerate(parts):
        for name in ("intended_ns", "sent_ns", "first_byte_ns", "done_ns"):
            part[name] += i * 11_000_000_000
    one = joined([samples.measured(part) for part in parts])
    for executor in ("closed", "burst"):
        found = samples.recording({"a": one.samples}, executor=executor)
        assert covered_s(rows.spans_ns(found.samples)) == 3.0
