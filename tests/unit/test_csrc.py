"""The C files are clean under every warning, with each compiler that is here."""

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = ["-std=c11", "-O3", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-fsyntax-only"]


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings(compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    sources = sorted(map(str, CSRC.glob("*.c")))
    assert sources
    run = subprocess.run([compiler, *FLAGS, *sources], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_no_allocation_no_files_no_entropy_in_c():
    forbidden = ("malloc(", "calloc(", "free(", "stdio.h", "getrandom(", "/dev/urandom", "rand(")
    for path in CSRC.glob("*.[ch]"):
        text = path.read_text()
        assert not [word for word in forbidden if word in text], path.name
