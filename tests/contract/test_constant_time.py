"""No branch and no address depends on a secret: the kernels on memory that a tool holds for uninitialised.

clang's memory sanitizer covers every backend of this CPU; Valgrind covers what gcc made of those that it can
run itself (up to AVX2). What is not installed is skipped by name.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from contract import compiled

from fedsec import _kernels

TOLD = ["-g", "-include", Path(__file__).with_name("told.h")]
TOOLS = {
    "memory sanitizer": ("clang", ["-O1", "-fsanitize=memory", "-fno-sanitize-recover=all"], []),
    "valgrind": ("gcc", ["-O3", "-DWITH_VALGRIND"], ["valgrind", "-q", "--error-exitcode=9"]),
}


@pytest.fixture(scope="module", params=TOOLS)
def driver(request):
    """The tool, and the command that runs the driver under it."""
    compiler, flags, command = TOOLS[request.param]
    if command and shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    missing = ["msan", "valgrind/memcheck.h"]
    binary = compiled.program("secrets_driver.c", compiler, [*TOLD, *flags], missing)
    return request.param, [*command, binary]


def test_every_backend_is_covered_and_silent(driver):
    tool, command = driver
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    print(run.stdout)
    covered = run.stdout.replace("covered ", "").split()
    able = [backend.name for backend in _kernels.backends()]
    if tool == "valgrind":
        able = [name for name in able if "vaes" not in name]
    assert covered == able


@pytest.mark.parametrize("leak", ["branch", "index"])
def test_a_leaky_function_is_caught(driver, leak):
    tool, command = driver
    run = subprocess.run([*command, leak], capture_output=True, text=True, check=False)
    assert run.returncode == (9 if tool == "valgrind" else 1)
    assert "uninitiali" in run.stderr
