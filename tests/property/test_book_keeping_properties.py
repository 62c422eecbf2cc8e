"""Book-keeping against the loop that defines it, over kinds of layers and random shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.book_keeping_cases import CASES, Recurrent, loss, make
from reference.clipping_reference import record_gradients

from fedsec.clipping import AutomaticClipping, BookKeeper, FlatClipping, PerLayerClipping, clipped_sum

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same'"),
    pytest.mark.filterwarnings("ignore:LSTM with projections"),
]


def gradients_and_sum(model, inputs, rule, *, of=None, loss_of=loss):
    """The gradients by the loop, and the flat clipped sum by book-keeping over the first `of` records."""
    rows = torch.stack(record_gradients(model, inputs, torch.zeros(len(inputs)), loss_of)).double()
    keeper = BookKeeper(model)
    keeper.begin(len(inputs))
    keeper.backward(loss_of(model(inputs), None))
    gradients = keeper.collect()
    sums = clipped_sum(keeper, gradients, rule, len(inputs) if of is None else of)
    keeper.close()
    return rows, gradients, torch.cat([sums[name].flatten() for name, p in model.named_parameters()])


def flat_sum(rows, bound):
    return (rows * torch.clamp(bound / rows.norm(dim=1), max=1.0).unsqueeze(1)).sum(dim=0)


def assert_same(model, inputs, tolerance=1e-5, **options):
    exact = torch.stack(
        record_gradients(model, inputs, torch.zeros(len(inputs)), options.get("loss_of", loss))
    )
    bound = float(exact.double().norm(dim=1).median()) * 0.8 + 1e-6
    rows, gradients, flat = gradients_and_sum(model, inputs, FlatClipping(bound), **options)
    norms = gradients.squared_norms.sum(dim=0).sqrt()
    assert torch.allclose(norms, rows.norm(dim=1), rtol=1e-5, atol=1e-6)
    expected = flat_sum(rows, bound)
    # Relative to the sum, or where shares of records cancel in it, to what they would be side by side.
    size = max(float(expected.norm()), float(rows.norm(dim=1).clamp(max=bound).norm()))
    assert float((flat - expected).norm()) <= tolerance * size + 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_clipped_sums_equal_the_loop(case, dtype):
    model, inputs = make(case, 7, dtype=dtype)
    assert_same(model, inputs)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("case", CASES)
def test_one_record_alone(case):
    assert_same(*make(case, 1, seed=1))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    positions=st.lists(st.integers(1, 5), max_size=2),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    bias=st.booleans(),
)
def test_linear_of_any_shape(rows, positions, sizes, bias):
    torch.manual_seed(rows)
    assert_same(torch.nn.Linear(*sizes, bias=bias), torch.randn(rows, *positions, sizes[0]))


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group = draw(st.integers(1, 9))
    kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
    dilation = [draw(st.integers(1, 2)) for _ in range(dims)]
    image = [d * (k - 1) + 1 + draw(st.integers(0, 5)) for k, d in zip(kernel, dilation, strict=True)]
    stride = [draw(st.integers(1, 3)) for _ in range(dims)]
    padding = [draw(st.integers(0, 2)) for _ in range(dims)]
    kind = (torch.nn.Conv1d, torch.nn.Conv2d)[dims - 1]
    layer = kind(
        groups * per_group, groups * draw(st.integers(1, 12)), kernel, stride, padding, dilation, groups,
        bias=draw(st.booleans()),
    )  # fmt: skip
    return layer, torch.randn(draw(st.integers(1, 9)), groups * per_group, *image)


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_convolutions_of_any_geometry(case):
    torch.manual_seed(0)
    assert_same(*case)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9), positions=st.integers(1, 12), vocabulary=st.integers(1, 60), size=st.integers(1,
    20), scattered=st.booleans(),
)  # fmt: skip
def test_embeddings_of_any_size(rows, positions, vocabulary, size, scattered):
    """Indices that are not contiguous, and tokens that come several times in a record, too."""
    torch.manual_seed(rows)
    indices = torch.randint(0, vocabulary, (rows, positions))
    if scattered:
        indices = torch.randint(0, vocabulary, (positions, rows)).T
    assert_same(torch.nn.Embedding(vocabulary, size, padding_idx=0), indices)


@settings(max_examples=16, deadline=None)
@given(
    kind=st.sampled_from(["RNN", "GRU", "LSTM"]), layers=st.integers(1, 2), both=st.booleans(),
    bias=st.booleans(), positions=st.integers(1, 5), hidden=st.integers(1, 6),
)  # fmt: skip
def test_recurrent_layers_of_any_kind(kind, layers, both, bias, positions, hidden):
    torch.manual_seed(positions)
    model = Recurrent(kind, 3, hidden, num_layers=layers, bidirectional=both, bias=bias)
    assert_same(model, torch.randn(4, positions, 3))


def sequences():
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 4))


def test_rules_equal_their_definitions():
    model, inputs = sequences(), torch.randn(6, 3, 6)
    rows, _, flat = gradients_and_sum(model, inputs, PerLayerClipping(0.7))
    layers = rows.split([6 * 9 + 9, 9 * 4 + 4], dim=1)
    expected = torch.cat([flat_sum(layer, 0.7 / 2**0.5) for layer in layers])
    assert torch.allclose(flat, expected, rtol=1e-5, atol=1e-6)
    _, _, flat = gradients_and_sum(model, inputs, AutomaticClipping(0.7, gamma=0.1))
    expected = (rows * (0.7 / (rows.norm(dim=1, keepdim=True) + 0.1))).sum(dim=0)
    assert torch.allclose(flat, expected, rtol=2e-5, atol=1e-6)


def wild(case, rows):
    """Records from tiny to huge, the case's own model."""
    model, inputs = make(case, rows)
    if inputs.is_floating_point():
        inputs = inputs * torch.logspace(-4, 4, rows).view(-1, *(1,) * (inputs.dim() - 1))
    return model, inputs


@pytest.mark.parametrize("rule", [FlatClipping(0.5), PerLayerClipping(0.5), AutomaticClipping(0.5)])
@pytest.mark.parametrize("case", CASES)
def test_one_record_alone_never_passes_the_bound(case, rule):
    """Each record's own share, as it enters the sum: at most C, and so below the sensitivity."""
    model, inputs = wild(case, 9)
    keeper = BookKeeper(model)
    keeper.begin(9)
    keeper.backward(loss(model(inputs)))
    gradients = keeper.collect()
    factors = rule.factors(gradients.squared_norms, tuple((i,) for i in range(len(gradients.names))))
    for i in range(9):
        alone = torch.zeros_like(factors)
        alone[:, i] = factors[:, i]
        parts = gradients.weighted_sums(alone)
        norm = float(torch.cat([part.flatten() for part in parts.values()]).norm())
        assert norm <= rule.l2_clip_norm * (1 + 1e-6)
        assert norm <= rule.l2_sensitivity


@pytest.mark.parametrize(
    "case", ["small convnet", "transformer encoder", "embedding, twice", "gru", "raw parameters"]
)
@pytest.mark.parametrize("rule", [FlatClipping(0.5), PerLayerClipping(0.5), AutomaticClipping(0.5)])
def test_neighbouring_sums_stay_within_the_declared_sensitivity(case, rule):
    """One record more, in a batch of the same shape, in the order that the proof compares."""
    model, inputs = wild(case, 12)
    sums = {}
    for left_out in (None, 0, 5, 11):
        order = list(range(12))
        if left_out is not None:  # the last record takes the place of the one left out
            order[left_out] = 11
        of = 12 if left_out is None else 11
        sums[left_out] = gradients_and_sum(model, inputs[order], rule, of=of)[2]
    for left_out in (0, 5, 11):
        assert float((sums[None] - sums[left_out]).norm()) <= rule.l2_sensitivity


@pytest.mark.parametrize("case", CASES)
def test_rows_do_not_depend_on_other_rows(case):
    """Bit for bit, in a batch of one shape: norms of a record beside other records, and in another row."""
    model, inputs = make(case, 8)
    _, others = make(case, 8, seed=9)
    keeper, norms = BookKeeper(model), []
    moved = torch.cat([others[:5], inputs[2:3], others[6:]])
    for batch in (inputs, moved):
        keeper.begin(8)
        keeper.backward(loss(model(batch)))
        norms.append(keeper.collect().squared_norms)
    assert torch.equal(norms[0][:, 2], norms[1][:, 5])
