"""What all tests share: draws that are the same in every run; one torch thread, or no torch tests at all."""

import os
import random
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from reference.draws import PROFILE, Draws

# The same examples in every run, so that a red run is red again. How long one takes is the machine's, and
# fails nothing.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, **UNTIMED)
settings.register_profile("explore", derandomize=False, print_blob=True, **UNTIMED)
settings.load_profile(PROFILE)
# Nor are numbers and words of the modules that happen to be imported by then put into examples.
if PROFILE == "repeatable" and hasattr(providers, "_get_local_constants"):
    providers._get_local_constants = lambda: providers._local_constants

# What decides how the command line prints, and which passphrase it finds.
ELSEWHERE = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "FEDSEC_PASSPHRASE")

# One torch thread: two on two busy cores make a round many times slower.
if find_spec("torch"):
    import torch

    torch.set_num_threads(1)
    collect_ignore_glob = []
else:
    torch = None
    collect_ignore_glob = [
        "ecosystem/*",
        "property/test_book_keeping_properties.py",
        "protocol/test_training_processes.py",
        "unit/test_clipping_*.py",
        "unit/test_demo_models.py",
        "unit/test_demo_run.py",
        "unit/test_experiment.py",
        "unit/test_federat*.py",
        "unit/test_training.py",
    ]


def pytest_configure():
    """Whatever the terminal and the shell are like."""
    for name in ELSEWHERE:
        os.environ.pop(name, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Each test and what it sets up draw alike in every run, whichever tests ran before."""
    with pytest.MonkeyPatch.context() as patch:
        if PROFILE == "repeatable":
            patch.setattr(os, "urandom", Draws(item.nodeid))
            random.seed(0)
            np.random.seed(0)
            if torch:
                torch.manual_seed(0)
        return (yield)
