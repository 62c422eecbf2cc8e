"""Without torch (a plain `pip install '.[test]'`) the tests of the rooms that need it are left out."""

from importlib.util import find_spec

# One torch thread: two on two busy cores make a round many times slower.
if find_spec("torch"):
    import torch

    torch.set_num_threads(1)
    collect_ignore_glob = []
else:
    collect_ignore_glob = [
        "unit/test_clipping_*.py",
        "unit/test_demo_models.py",
        "unit/test_demo_run.py",
        "unit/test_federation.py",
    ]
