"""Every connection of every command is watched from outside: none leaves this machine, and nothing listens beyond it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import servers
from servers import Server

HERE = r'inet_addr\("127\.|"::1"|"::ffff:127\.'
PLACE = re.compile(r"(connect|bind|sendto|sendmsg|sendmmsg)\(.*sa_family=AF_INET6?[,}]")
COMMANDS = """
import sys
from tapecheck.__main__ import main
url, target, plan, out = sys.argv[1:]
for words in (
    ["check", target, plan], ["check", "--ask", target], ["params", "load"], ["init", url], ["sandbox", "status"],
    ["run", "load", "--target", target, "-p", "plan", plan, "--out", out],
    ["runs", "--out", out], ["history", "scenarios.s.requests", "--out", out], ["index", "--out", out],
):
    print(words[0], main(words), flush=True)
from tapecheck.load.validation import load
again = load.analyse(load.read(f"{out}/load/latest"), load.read_plan(plan))
done = load.record(again, settings=load.settings(target=target, plan=plan, run="latest", out=out, scenarios="all", rounds=0))
print("analysed", int(done.result.reanalysis_of is None))
"""
AWAY = "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9)); socket.create_server(('0.0.0.0', 0))"


def watched(log: Path, *words: str, **environment: str) -> tuple[str, list[str]]:
    """Run a Python program, and return what it printed and each place beyond this machine that it or a child of it names to the system."""
    calls = ["-f", "--seccomp-bpf", "-e", "trace=connect,bind,sendto,sendmsg,sendmmsg", "-e", "signal=none", "-o", str(log)]
    command = ["strace", *calls, sys.executable, "-P", "-c", *words]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in log.read_text().splitlines() if PLACE.search(line) and not re.search(HERE, line)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the system writes what it was asked; skipped where nothing may be watched."""
    if not shutil.which("strace") or subprocess.run(["strace", "-f", "-o", tmp_path / "log", "true"], capture_output=True).returncode:
        pytest.skip("NOT WATCHED: whether a command connects beyond this machine; strace is missing here, or may watch nothing")
    return tmp_path / "log"


def test_no_command_connects_or_listens_beyond_this_machine(log: Path) -> None:
    """Whatever proxies the environment names; of children too, and what would be seen is."""
    assert len(watched(log, AWAY)[1]) == 2
    plan, target, proxy = log.with_name("plan.yaml"), log.with_name("target.yaml"), "http://192.0.2.1:3128"
    plan.write_text("scenarios: {s: {executor: burst, concurrency: 2, rounds: 2, request: one}}\nobjectives: [success_ratio > 0.1]\n")
    with Server(servers.fast) as server:
        said = f"name: t\nkind: external\nbase_url: http://localhost:{server.port}\nrequests: {{one: 'GET /?symbol=A'}}\n"
        target.write_text(said + f"backfill: {{source_url: {server.url}, database_url: 'postgresql://nobody@127.0.0.1:9/x'}}\n")
        words = (COMMANDS, server.url, str(target), str(plan), str(log.with_name("out")))
        own = {"TAPECHECK_SANDBOX_HOME": str(log.with_name("sandbox")), "TAPECHECK_MEASUREMENTS": str(log.with_name("measurements"))}
        printed, away = watched(log, *words, **own, **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), proxy), DATABASE_URL="")
    codes = re.findall(r"^(\w+) (\d)$", printed, re.MULTILINE)
    right = ["check", "params", "init", "run", "runs", "history", "index", "analysed"]
    assert [name for name, code in codes if code == "0"] == right, printed
    assert server.seen.requests > 8 and away == []
