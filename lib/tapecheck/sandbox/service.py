"""Runs one of the sandbox's Python processes: `python -m tapecheck.sandbox.service NAME HOME`, started by supervisord alone."""

import gc
import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tapecheck.sandbox.profile import Home, Ports


def end_with(parent: int) -> None:
    """Stop this process when its parent is gone, so that a killed one leaves nothing behind."""
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2)
    os._exit(1)


def serve(name: str, home: Home) -> None:
    """Serve the process `name` on its port until a signal."""
    gc.set_threshold(50_000, 20, 100)  # answers are many small objects and no cycles: the default spends a third of the time looking
    end_with(int((home.folder / "supervisord.pid").read_text()))
    port = getattr(Ports.of(home), name)
    application = importlib.import_module(f"tapecheck.sandbox.{name}").application(home)
    gc.freeze()
    import uvicorn

    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="info",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run()
    sys.stdout.flush()
    os._exit(0)  # a thread that waits for a frozen database must not hold the process up


if __name__ == "__main__":
    serve(sys.argv[1], Home(Path(sys.argv[2])))
