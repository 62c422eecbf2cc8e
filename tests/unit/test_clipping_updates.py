"""A client's whole update: what counts, what is refused, and that the bound holds after rounding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.clipping import UpdateClipper, clip_update
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError


def exact_norm(tensors):
    return math.sqrt(math.fsum(float(x) ** 2 for t in tensors.values() for x in t.flatten()))


def test_norm_is_flat_over_all_tensors():
    result = clip_update({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}, 1.0)
    assert result.l2_norm == 5.0
    assert result.clipped
    assert torch.allclose(result.tensors["a"], torch.tensor([0.6]))
    assert torch.allclose(result.tensors["b"], torch.tensor([[0.8]]))


def test_within_the_bound_nothing_changes():
    update = {"a": torch.tensor([3.0, 4.0])}
    result = clip_update(update, 5.0)
    assert not result.clipped
    assert torch.equal(result.tensors["a"], update["a"])


def test_the_zero_update_stays_zero():
    result = clip_update({"a": torch.zeros(3)}, 1.0)
    assert result.l2_norm == 0.0
    assert not result.clipped
    assert torch.equal(result.tensors["a"], torch.zeros(3))


def test_integer_buffers_stay_at_the_client():
    update = torch.nn.BatchNorm1d(2).state_dict()
    result = clip_update(update, 10.0)
    assert "num_batches_tracked" in update
    assert set(result.tensors) == {"weight", "bias", "running_mean", "running_var"}


def test_half_precision_is_widened_and_the_update_is_not_changed():
    update = {"a": torch.full((4,), 60000.0, dtype=torch.float16, requires_grad=True)}
    result = clip_update(update, 1.0)
    assert result.l2_norm == pytest.approx(120000, rel=1e-3)
    assert result.tensors["a"].dtype == torch.float32
    assert not result.tensors["a"].requires_grad
    assert float(update["a"].detach()[0]) == 60000.0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40),
    st.floats(1e-20, 1e20),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_the_norm_never_passes_the_declared_sensitivity(values, clip_norm, dtype):
    clipper = UpdateClipper(clip_norm)
    result = clipper.clip({"a": torch.tensor(values, dtype=dtype)})
    assert exact_norm(result.tensors) <= clipper.l2_sensitivity
    assert result.clipped == (result.l2_norm > clip_norm)


@pytest.mark.parametrize("clip_norm", [1e-30, 2.2e-5, 1e-3, 0.1])
@pytest.mark.parametrize("value", [3e38, 1e-20, 1e-44])
def test_huge_and_tiny_updates_stay_within_the_declared_sensitivity(clip_norm, value):
    """The scale of the huge ones is subnormal in float32; a product in float32 would be off by a third."""
    clipper = UpdateClipper(clip_norm)
    result = clipper.clip({"a": torch.full((10_000,), value)})
    assert exact_norm(result.tensors) <= clipper.l2_sensitivity


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_refused_by_name(bad):
    with pytest.raises(NonFiniteError, match=r"layer\.weight"):
        clip_update({"ok": torch.ones(2), "layer.weight": torch.tensor([0.0, bad])}, 1.0)


@pytest.mark.parametrize(
    ("update", "error", "names"),
    [
        ({"a": torch.ones(2, dtype=torch.complex64)}, InvalidTypeError, "complex64"),
        ({"a": [1.0]}, InvalidTypeError, "list"),
        ({"a": torch.eye(2).to_sparse()}, InvalidTypeError, "sparse"),
        ([torch.ones(2)], InvalidTypeError, "mapping"),
        (None, InvalidTypeError, "mapping"),
        ({"a": torch.ones(2, dtype=torch.int64)}, InvalidArgumentError, "floating-point"),
        ({}, InvalidArgumentError, "floating-point"),
    ],
)
def test_other_updates_are_refused(update, error, names):
    with pytest.raises(error, match=names):
        clip_update(update, 1.0)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, math.inf, 1e-31, 1e31])
def test_clip_norms_are_positive_and_finite(clip_norm):
    with pytest.raises(InvalidArgumentError):
        clip_update({"a": torch.ones(2)}, clip_norm)


def test_an_overflowing_norm_is_refused():
    with pytest.raises(NonFiniteError, match="norm"):
        clip_update({"a": torch.full((2,), 1.7e308, dtype=torch.float64)}, 1.0)
