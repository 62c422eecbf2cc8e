"""examples/http: a server process and client processes on loopback; one killed and restarted, one lost."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedsec.secagg import Directory, Enrolment, Identity

EXAMPLE = Path(__file__).parents[2] / "examples" / "http"
NUMBERS = {i: [i + 0.5, -2.25 * i, 1.0] for i in range(1, 7)}
SECONDS = 600  # a bound on every wait
# A process that has imported what a script needs, and runs it once it is told to: what the server waits for
# while its patience runs is then no process that starts, on a machine of any speed.
WARM = """
import runpy, sys
import numpy
from fedsec import secagg
sys.argv = sys.argv[1:]
print("ready", flush=True)
input()
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Processes:
    """The server and its clients, with whatever they have printed."""

    def __init__(self, folder):
        self.folder, self.all = folder, []
        authority = Identity.new()
        self.authority = authority.public_key.hex()
        directory = Directory.new(authority.public_key)
        for i in NUMBERS:
            identity = Identity.new()
            identity.save(folder / f"{i}.pem")
            directory = directory.add(
                Enrolment.new(identity, client_id=i, name=f"Client {i}", authority=authority.public_key)
            )
        self.directory = folder / "clients.directory"
        directory.save(self.directory, authority)

    def start(self, before, script, *words):
        arguments = [sys.executable, *before, EXAMPLE / script, *map(str, words), "--authority"]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen([*arguments, self.authority], **pipes, text=True, cwd=self.folder)
        self.all.append(process)
        return process

    def server(self, *words):
        process = self.start([], "server.py", self.directory, "--length", 3, *words)
        self.url = process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), process.stderr.read()
        return process

    def client(self, i, before=()):
        where = ("--key", f"{i}.pem", "--directory", self.directory, "--folder", f"{i}.state")
        return self.start(before, "client.py", self.url, i, *NUMBERS[i], *where)

    def end(self):
        for process in self.all:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()


@pytest.fixture
def processes(tmp_path):
    started = Processes(tmp_path)
    yield started
    started.end()


def lines_until(process, last):
    """Reads what a process prints up to a line, which it must come to."""
    for line in process.stdout:
        if line.strip() == last:
            return
    pytest.fail(f"no {last!r}: {process.stderr.read()}")


def finish(process, code=0):
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code, err
    return out, err


def expected(survivors):
    return [sum(NUMBERS[i][k] for i in survivors) for k in range(3)]


def test_one_killed_and_restarted_and_one_lost(processes):
    server = processes.server("--patience", 15)
    clients = {i: processes.client(i) for i in (1, 2, 3, 4, 5)}
    for client in clients.values():
        lines_until(client, "sent, share is next")
    # Client 5 holds everybody up while two are killed in the middle of the protocol.
    clients[5].send_signal(signal.SIGSTOP)
    again = processes.client(2, before=["-c", WARM])
    lines_until(again, "ready")
    clients[6] = processes.client(6)
    for i in (2, 3):
        lines_until(clients[i], "sent, upload is next")
        clients[i].kill()
        clients[i].wait(SECONDS)
    clients[2] = again
    again.stdin.write("go on\n")
    again.stdin.flush()
    lines_until(again, "sent, upload is next")
    clients[5].send_signal(signal.SIGCONT)

    survivors = [1, 2, 4, 5, 6]
    out, _ = finish(server)
    assert json.loads(out) == {"sum": expected(survivors), "survivors": survivors}
    for i in survivors:
        finish(clients[i])


def test_too_few_are_left(processes):
    """Three of six, where four must survive."""
    server = processes.server("--turnout", 1)
    clients = [processes.client(i) for i in (1, 2, 3)]
    _, err = finish(server, code=1)
    assert "aborted: " in err
    for client in clients:
        finish(client, code=1)
