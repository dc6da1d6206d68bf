"""Measures what is actually broken in a market-data API; see README.md."""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # as `python -m tapecheck` begins, with the current folder before all others
    del sys.path[0]  # whatever lies there is no part of us
