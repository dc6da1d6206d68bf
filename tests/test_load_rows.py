"""Samples are selected by scenario and warm-up, wherever they lie in the table."""

import numpy as np
import pyarrow as pa
import samples

from tapecheck.load import samples as rows
from tapecheck.load.engine.recorder import ErrorKind, joined


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
        assert found.context.measured_s(rows.spans_ns(found.samples)) == 3.0
