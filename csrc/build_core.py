"""Builds the extension module `fedsec._core` (cffi, API mode, one abi3 binary for CPython 3.10 and newer)."""

import os
import sys
from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent
# The literal names: sources must be relative to the project's root for setuptools.
SOURCES = sorted(f"{HERE.name}/{path.name}" for path in HERE.glob("*.c"))

# Without errno, so that loops over sqrt become vectors; without contraction, so that backends agree.
UNIX = ["-std=c11", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off"]
FLAGS = ["/O2", "/std:c11"] if os.name == "nt" else UNIX

ffibuilder = cffi.FFI()
ffibuilder.cdef((HERE / "core.cdef").read_text(encoding="ascii"))
ffibuilder.set_source(
    "fedsec._core",
    '#include "core.h"',
    sources=SOURCES,
    depends=[f"{HERE.name}/{path.name}" for pattern in ("*.h", "*.cdef") for path in HERE.glob(pattern)],
    include_dirs=[HERE.name],
    libraries=[] if os.name == "nt" else ["m"],
    extra_compile_args=FLAGS,
    define_macros=[("Py_LIMITED_API", "0x030A0000")],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True, tmpdir=sys.argv[1] if len(sys.argv) > 1 else ".")
