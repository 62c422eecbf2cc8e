"""Tests against whole frameworks, in an environment of their own: `make test-ecosystem`."""

import warnings

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _warnings_of_frameworks():
    """Theirs are not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
