"""The environment chooses among this build's backends at import, and a wrong name is an error there."""

import os
import subprocess
import sys

import pytest

from fedsec import _kernels
from fedsec.errors import InvalidArgumentError

NAMES = [backend.name for backend in _kernels.backends()]


def best_backend_of_a_fresh_process(name):
    code = "from fedsec import _kernels; print(_kernels.best_backend.name)"
    environment = os.environ | {"FEDSEC_BACKEND": name}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_environment_chooses(name):
    assert best_backend_of_a_fresh_process(name).stdout.strip() == name
    assert _kernels.chosen_backend(name).name == name


def test_best_first_and_generic_last():
    assert best_backend_of_a_fresh_process("").stdout.strip() == NAMES[0]
    assert _kernels.chosen_backend(None).name == NAMES[0]
    assert NAMES[-1] == "generic"
    assert len(set(NAMES)) == len(NAMES)


def test_an_unknown_name_is_an_error_at_import():
    run = best_backend_of_a_fresh_process("quantum")
    assert run.returncode != 0
    assert "FEDSEC_BACKEND must name a backend of this build" in run.stderr
    assert "got 'quantum'" in run.stderr


def test_a_backend_that_this_cpu_cannot_run_is_an_error(monkeypatch):
    monkeypatch.setattr(_kernels, "backends", lambda: _kernels.all_backends()[-1:])
    (name, *_) = (backend.name for backend in _kernels.all_backends())
    if name == "generic":
        pytest.skip("this build has one backend only")
    with pytest.raises(InvalidArgumentError, match="which this CPU cannot run; it runs generic"):
        _kernels.chosen_backend(name)
