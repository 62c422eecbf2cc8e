"""The backends once more in a C program: under sanitizers, and for 64-bit Arm in an emulator.

What is missing here, a compiler or an emulator, is skipped by name (Debian: gcc-aarch64-linux-gnu and
qemu-user).
"""

import shutil
import subprocess

import pytest
from contract import compiled

STEP = "13"  # between lengths; all of them are in test_backends.py

# What the portable backend gives, on any machine.
DIGEST = "digest fcc1fcdd00db5b53"


def run(compiler, flags, emulator=()):
    for needed in emulator[:1]:
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    binary = compiled.program("backends_driver.c", compiler, flags, missing=["asan", "ubsan"])
    done = subprocess.run([*emulator, binary, STEP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    print(*lines, sep="\n")
    assert lines[-1] == DIGEST
    return [line.split()[1] for line in lines if line.startswith("same")]


@pytest.mark.parametrize(("compiler", "optimization"), [("gcc", "-O0"), ("clang", "-O3")])
def test_every_compiler_gives_the_same(compiler, optimization):
    assert "generic" in run(compiler, [optimization])


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_address_and_no_behaviour_is_undefined(compiler):
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    assert "generic" in run(compiler, flags)


def test_arm_in_an_emulator():
    backends = run("aarch64-linux-gnu-gcc", ["-O3", "-static"], ["qemu-aarch64", "-cpu", "max"])
    assert backends == ["neon-aes", "neon", "generic"]
