"""What all tests share: repeatable examples, one torch thread, and no torch tests where torch is missing."""

import os
from importlib.util import find_spec

from hypothesis import settings

# The same examples in every run, so that a red run is red again; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# One torch thread: two on two busy cores make a round many times slower.
if find_spec("torch"):
    import torch

    torch.set_num_threads(1)
    collect_ignore_glob = []
else:
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
