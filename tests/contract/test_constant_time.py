"""No branch and no address depends on a secret: the kernels on memory that a tool holds for uninitialised.

clang's memory sanitizer covers every backend of this CPU; Valgrind covers what gcc made of those that it can
run itself (up to AVX2). What is not installed is skipped by name.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from fedsec import _kernels

ROOT = Path(__file__).parents[2]
SOURCES = [Path(__file__).with_name("secrets_driver.c"), *sorted((ROOT / "csrc").glob("*.c"))]
AS_BUILT = ("-fno-math-errno", "-ffp-contract=off")  # see csrc/build_core.py
TOOLS = {
    "memory sanitizer": (["clang"], ["-O1", "-fsanitize=memory", "-fno-sanitize-recover=all"], []),
    "valgrind": (["gcc", "valgrind"], ["-O3", "-DWITH_VALGRIND"], ["valgrind", "-q", "--error-exitcode=9"]),
}


@pytest.fixture(scope="module", params=TOOLS)
def driver(request, tmp_path_factory):
    """The tool, and the command that runs the driver under it."""
    needed, flags, command = TOOLS[request.param]
    for program in needed:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    binary = tmp_path_factory.mktemp("secrets") / "driver"
    told = Path(__file__).with_name("told.h")
    compiler = [needed[0], "-std=c11", "-g", *AS_BUILT, f"-I{ROOT / 'csrc'}", "-include", told]
    built = subprocess.run(
        [*compiler, *flags, *SOURCES, "-lm", "-o", binary], capture_output=True, text=True, check=False
    )
    if built.returncode and ("msan" in built.stderr or "valgrind/memcheck.h" in built.stderr):
        pytest.skip(f"{request.param} is not fully installed")
    assert built.returncode == 0, built.stderr
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
