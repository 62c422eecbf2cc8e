"""C programs over the core's sources, of objects that stay in build/ until a source or header changes."""

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CACHE = ROOT / "build" / "contract"
CORE = sorted((ROOT / "csrc").glob("*.c"))
HEADERS = sorted([*(ROOT / "csrc").glob("*.h"), *HERE.glob("*.h"), ROOT / "csrc" / "core.cdef"])
AS_BUILT = ("-std=c11", "-fno-math-errno", "-ffp-contract=off")  # see csrc/build_core.py


def program(driver, compiler, flags, missing=()):
    """The path of what `compiler` makes of a driver and the core.

    Skips where the compiler is not installed, or where it complains of one of `missing`.
    """
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    command = [compiler, *AS_BUILT, f"-I{ROOT / 'csrc'}", *map(str, flags)]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    common = _digest(version, "\0".join(command).encode(), *map(Path.read_bytes, HEADERS))
    CACHE.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(_object, command, common, source, missing) for source in (HERE / driver, *CORE)]
        objects = [job.result() for job in jobs]
    name = _digest(*(path.name.encode() for path in objects))
    return _made(CACHE / name, [compiler, *map(str, flags), *map(str, objects), "-lm"], missing)


def _object(command, common, source, missing):
    name = _digest(common.encode(), source.name.encode(), source.read_bytes())
    return _made(CACHE / f"{name}.o", [*command, "-c", str(source)], missing)


def _made(path, command, missing):
    """The file, made unless it is there; under another name until it is whole."""
    if not path.exists():
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        built = subprocess.run([*command, "-o", unfinished], capture_output=True, text=True, check=False)
        for what in missing:
            if built.returncode and what in built.stderr:
                pytest.skip(f"{command[0]} has no {what}")
        assert built.returncode == 0, built.stderr
        unfinished.replace(path)
    return path


def _digest(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
