"""Every call that changes or reads a file fails in turn: full, broken, read-only, cut short, or a kill.

For each operation its calls are counted, and for every n the n-th one fails. Then the operation must fail by
name, with nothing let out, and go on once the disk is well again: nothing that was granted is granted twice,
nothing that was paid for is lost, no file is left that cannot be opened.
"""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from protocol import faults_worker
from protocol.secagg_loop import identity_of
from protocol.workers import Worker

SHORT, KILL = -1, -2
FULL, BROKEN, READ_ONLY = errno.ENOSPC, errno.EIO, errno.EROFS
# Once, or as it mostly is, from then on; of changes, or of reads.
FAULTS = {
    "full": (FULL, True, False),
    "full for a moment": (FULL, False, False),
    "broken": (BROKEN, True, False),
    "broken for a moment": (BROKEN, False, False),
    "read-only": (READ_ONLY, True, False),
    "cut short": (SHORT, False, False),
    "killed": (KILL, False, False),
    "unreadable": (BROKEN, True, True),
    "unreadable for a moment": (BROKEN, False, True),
}
CASES = [
    (kind, fault)
    for kind in faults_worker.WORK
    for fault in FAULTS
    if not (FAULTS[fault][2] and kind in faults_worker.UNREAD)
]
NEVER = (10**9, 0, False)
SHORTENED = os.environ.get("FEDSEC_LONG") != "1"

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    options = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *options, "-o", library, source, "-ldl"], check=True)
    with contextlib.closing(Worker(faults_worker, LD_PRELOAD=str(library))) as worker:
        yield worker


@pytest.fixture(scope="module")
def calls_of(worker, tmp_path_factory):
    """By operation, and whether it is reads, how many calls there are when none fails."""
    counted = {}
    for kind in faults_worker.WORK:
        for reads in (False, True):
            said, _ = worker.run(kind, tmp_path_factory.mktemp("well"), *NEVER, reads)
            told = {words[0]: words[1:] for words in said}
            assert told["first"][0] == "value"
            counted[kind, reads] = told["faults"][0]
    return counted


def played(worker, kind, folder, call, fault):
    folder.mkdir()
    said, code = worker.run(kind, folder, call, *FAULTS[fault])
    return {words[0]: words[1:] for words in said}, code


@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_a_call_that_fails(worker, calls_of, tmp_path, kind, fault):
    calls = calls_of[kind, FAULTS[fault][2]]
    assert calls >= 3, "the fault injection sees no calls"
    # In the suite three instants of each, in all others every one.
    chosen = sorted({1, calls // 2, calls}) if SHORTENED else range(1, calls + 1)
    for call in chosen:
        folder = tmp_path / str(call)
        told, code = played(worker, kind, folder, call, fault)
        if fault == "killed":
            assert code != 0, told
            told, code = played_after(worker, kind, folder)
        assert code == 0
        assert told["there"][0] == "value", (call, told)
        assert_right(kind, fault, told, (call, told))


def played_after(worker, kind, folder):
    """The same operation in a new process, on what the killed one left."""
    said, code = worker.run(kind, folder, *NEVER, False)
    return {words[0]: words[1:] for words in said} | {"faults": (0, 1)}, code


def assert_right(kind, fault, told, where):
    first, second, there = told["first"], told["second"], told["there"][1]
    assert first[0] != "raw", where
    assert second[0] != "raw", where
    assert told["faults"][1] >= 1, where
    if fault == "cut short":
        assert first[0] == "value", where  # whoever writes goes on where the system stopped
    granted = [one for one in (first, second) if one[0] == "value"]
    if kind == "Charge":
        assert second[0] == "value", where
        assert len(granted) <= there <= 3, where
    elif kind == "Claim":
        assert len(granted) <= 1, where
        assert there == "granted", where
    elif kind == "Join":
        assert second[0] == "value" or "was started before" in second[2] or "aborted" in second[2], where
        assert len({one[1] for one in granted}) <= 1, where
    elif kind == "Settle":
        assert second[0] == "value" or "reservation already" in second[2], where
        assert there[0] >= len(granted), where
    elif kind == "Step":
        assert second[0] == "value", where
        assert there[0] == there[1] >= 2 * len(granted), where
    elif kind == "Key":
        assert there[1] == identity_of(10).public_key.hex(), where
        # A draft that the disk would not even take away, or that a kill has left; nobody reads it.
        assert not there[0] or fault != "cut short", where
        assert second[0] == "value" or "exists" in second[2], where
    elif kind == "Publish":
        assert there == [["clients.directory"], 2], where
    else:
        assert there in (True, "aborted"), where
