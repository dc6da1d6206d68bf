"""The load engine: what a worker process does."""
