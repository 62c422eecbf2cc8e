"""The backends once more in a C program: under sanitizers, and for 64-bit Arm in an emulator.

What is missing here, a compiler or an emulator, is skipped by name (Debian: gcc-aarch64-linux-gnu and
qemu-user).
"""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AS_BUILT = ("-fno-math-errno", "-ffp-contract=off")  # see csrc/build_core.py
SOURCES = [Path(__file__).with_name("backends_driver.c"), *sorted((ROOT / "csrc").glob("*.c"))]
STEP = "13"  # between lengths; all of them are in test_backends.py

# What the portable backend gives, on any machine.
DIGEST = "digest 7c673593804185fb"


def run(tmp_path, compiler, flags, emulator=()):
    for needed in (compiler, *emulator[:1]):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    binary = tmp_path / "driver"
    command = [compiler, "-std=c11", *AS_BUILT, f"-I{ROOT / 'csrc'}", *flags, *SOURCES, "-lm", "-o", binary]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and any("fsanitize" in flag for flag in flags) and "cannot find" in built.stderr:
        pytest.skip(f"{compiler} has no sanitizers")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([*emulator, binary, STEP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    print(*lines, sep="\n")
    assert lines[-1] == DIGEST
    return [line.split()[1] for line in lines if line.startswith("same")]


@pytest.mark.parametrize(("compiler", "optimization"), [("gcc", "-O0"), ("clang", "-O3")])
def test_every_compiler_gives_the_same(tmp_path, compiler, optimization):
    assert "generic" in run(tmp_path, compiler, [optimization])


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_address_and_no_behaviour_is_undefined(tmp_path, compiler):
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    assert "generic" in run(tmp_path, compiler, flags)


def test_arm_in_an_emulator(tmp_path):
    backends = run(tmp_path, "aarch64-linux-gnu-gcc", ["-O3", "-static"], ["qemu-aarch64", "-cpu", "max"])
    assert backends == ["neon-aes", "neon", "generic"]
