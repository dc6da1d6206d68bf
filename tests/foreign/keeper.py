"""Starts a program again whenever it ends: python keeper.py PROGRAM ARGUMENT prints its pid and goes on alone. It ends it with itself."""

import os
import signal
import subprocess
import sys

child = None


def end(*_: object) -> None:
    if child:
        child.kill()
    os._exit(0)


if pid := os.fork():
    print(pid)
    sys.exit(0)
os.setsid()
os.dup2(os.open(os.devnull, os.O_RDWR), 1)
signal.signal(signal.SIGTERM, end)
while True:
    child = subprocess.Popen([sys.executable, *sys.argv[1:]])
    child.wait()
