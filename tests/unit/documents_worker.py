"""Runs what documents print, each in a process forked from one that has paid for the large imports.

Only packages of others are there beforehand; what a text does not import is not there under its name.
"""

import contextlib
import os
import runpy
import sys
import traceback
import types
from pathlib import Path

from protocol.workers import serve
from reference import draws

TESTS = Path(__file__).parents[1]


def python(folder, text):
    """As `python -c` does."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    return _ended(folder, ["-c"], lambda: exec(compile(text, "<document>", "exec"), main.__dict__))  # noqa: S102


def script(folder, path, *arguments):
    """As `python PATH` does."""
    return _ended(folder, [path, *arguments], lambda: runpy.run_path(path, run_name="__main__"))


def module(folder, name, *arguments):
    """As `python -m` does."""
    return _ended(
        folder, [name, *arguments], lambda: runpy.run_module(name, run_name="__main__", alter_sys=True)
    )


def _ended(folder, arguments, run):
    """The exit code of what runs in a folder; what it prints goes to files beside the folder."""
    os.chdir(folder)
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, f"{folder}.out", os.O_WRONLY | os.O_CREAT),
        (2, f"{folder}.err", os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(path, flags), descriptor)
    draws.repeat("what documents show")
    sys.argv = arguments
    sys.path[:] = ["", *(one for one in sys.path if TESTS not in (Path(one), *Path(one).parents))]
    code = 0
    try:
        run()
    except SystemExit as end:
        code = end.code
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    import scipy.special  # noqa: F401

    with contextlib.suppress(ImportError):
        import torch  # noqa: F401
    serve({"python": python, "script": script, "module": module})
