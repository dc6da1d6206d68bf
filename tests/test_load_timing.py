"""Server-Timing as targets write it: their own word for the whole request, and what stands in where they have none."""

import numpy as np
import pytest

from tapecheck.load.engine.protocol import server_times_ms

UNKNOWN = np.nan


@pytest.mark.parametrize(
    ("header", "server_ms", "db_ms"),
    [
        (b"db;dur=2.5, app;dur=7.25", 7.25, 2.5),
        (b"app;dur=7, total;dur=5, server;dur=9", 5, UNKNOWN),  # a name that means the whole goes before a longer metric
        (b"db;dur=2.5, render;dur=4, auth;dur=1", 4, 2.5),
        (b"auth;dur=1, sql;dur=3", 3, 3),
        (b'Total;DUR="6.5"', 6.5, UNKNOWN),
        (b'total;desc="all, of it;dur=1";dur=5, db;dur=9', 5, 9),
        (b"total ; dur = 4 ,db;desc=x; dur=2", 4, 2),
        (b"cache;desc=hit", UNKNOWN, UNKNOWN),
        (b"app;dur=-1, db;dur=nan, total;dur=soon", UNKNOWN, UNKNOWN),
        (b"app;dur=1e99", UNKNOWN, UNKNOWN),
        (b"", UNKNOWN, UNKNOWN),
    ],
)
def test_server_times(header: bytes, server_ms: float, db_ms: float) -> None:
    """The whole is `total`, `app` or `server`, else the longest metric; what is absent or absurd is not known."""
    np.testing.assert_equal(server_times_ms(header), (server_ms, db_ms))
