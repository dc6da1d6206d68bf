"""Measures a backfill that nobody here wrote, from outside: its vendor, its database and its processes are watched while it runs."""
