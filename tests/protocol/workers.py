"""Both ends of a process whose forked children do one thing each, until they are done or somebody kills them.

`Worker` starts a program that calls `serve`. Each line on its standard input is JSON: how many children, and
what they do with which arguments. Standard output says `child PID` for each, a line of JSON for each thing
that one has done (`say`), and `gone CODE...` when all have ended. Children are forked, so that imports are
paid for once.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path


class Worker:
    """The end that asks."""

    def __init__(self, program, *options, **environment):
        path = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, program.__file__, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            | environment,
        )
        self.rest = b""
        assert self.line() == ["ready"]

    def line(self, seconds=1800.0):
        """The words of the next line; None if there is none in time."""
        while b"\n" not in self.rest:
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                return None
            received = os.read(self.process.stdout.fileno(), 1 << 16)
            assert received, "the worker is gone"
            self.rest += received
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def start(self, *work, children=1):
        """Children that all do the same; returns when the first of them runs, with its process id."""
        asked = [children, *(str(one) if isinstance(one, Path) else one for one in work)]
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        return self.line()[1]

    def until_gone(self):
        """What children said until all had ended, and their exit codes."""
        said = []
        while (words := self.line())[0] != "gone":
            said += [words] if words[0] != "child" else []
        return said, words[1:]

    def run(self, *work, seconds=None, after=0):
        """What a child said until it was done, or killed so long after its `after`-th word; and its code."""
        pid, said, end = self.start(*work), [], None
        while True:
            if seconds is not None and len(said) == after:
                end = time.perf_counter() + seconds
            words = self.line() if end is None else self.line(max(0.0, end - time.perf_counter()))
            if words is None:
                with contextlib.suppress(ProcessLookupError):  # it is done, and has not said so yet
                    os.kill(pid, signal.SIGKILL)
                rest, (code,) = self.until_gone()
                return said + rest, code
            if words[0] == "gone":  # maybe sooner than it should
                return said, words[1]
            said.append(words)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def say(*words):
    os.write(1, f"{json.dumps(words)}\n".encode())  # whole, whatever other children say


def serve(work):
    """The end that works: functions by name, which return their child's exit code, or None for 0."""
    say("ready")
    for line in sys.stdin:
        count, name, *arguments = json.loads(line)
        children = []
        for _ in range(count):
            children.append(os.fork())
            if children[-1] == 0:
                _child(work[name], arguments)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        say("gone", *codes)


def _child(work, arguments):
    code = 1
    try:
        say("child", os.getpid())
        code = work(*arguments) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
