"""The book-keeping engine: what it sees, what it refuses, and that the model stays the user's own."""

import copy
import io
import logging
import math
from fractions import Fraction

import pytest
import torch
from reference.book_keeping_cases import loss, make
from torch import nn

from fedsec import clipping
from fedsec.clipping import AdaptiveClipping, AutomaticClipping, BookKeeper, FlatClipping, clipped_sum
from fedsec.clipping.gradients import (
    BLOCK,
    MAX_TERMS,
    MOST_ROUNDINGS,
    NORM_SLACK,
    SUM_SLACK,
    Dense,
    Gathered,
    Outer,
)
from fedsec.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
    ProtocolError,
    UnsupportedError,
)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def run(model, inputs, loss_of=loss):
    keeper = BookKeeper(model)
    try:
        keeper.begin(len(inputs))
        keeper.backward(loss_of(model(inputs)))
        return keeper.collect()
    finally:
        keeper.close()


# ---- pieces


def outer(rows, positions, m, n, *, units=False):
    left = torch.randint(0, m, (rows, positions)) if units else torch.randn(rows, positions, m)
    return Outer(left, torch.randn(rows, positions, n), m, (m, n))


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("positions", [1, 2, 9])
def test_ghost_norms_and_sums_equal_those_of_gradients_that_are_formed(units, positions):
    torch.manual_seed(positions)
    piece, factors = outer(5, positions, 90, 80, units=units), torch.rand(5, dtype=torch.float64)
    gathered = Gathered([piece])
    assert gathered.dense is None
    formed = piece.dense()
    assert torch.allclose(gathered.squared_norms(), formed.squared_norms(), rtol=1e-5)
    expected = Gathered([formed]).weighted_sum(factors)
    assert torch.allclose(gathered.weighted_sum(factors), expected, atol=1e-5)


def test_pieces_of_one_parameter_are_added_before_the_norm():
    torch.manual_seed(0)
    pieces = [outer(4, 3, 50, 20), outer(4, 2, 50, 20, units=True), outer(4, 1, 50, 20)]
    total = sum(piece.dense().arranged() for piece in pieces).flatten(1).double()
    gathered = Gathered(pieces)
    assert gathered.dense is None
    assert torch.allclose(gathered.squared_norms(), total.square().sum(dim=1), rtol=1e-5)
    more = torch.randn(4, 1000)
    formed, whole = Gathered([*pieces, Dense(more, (50, 20))]), total + more
    assert torch.allclose(formed.squared_norms(), whole.square().sum(dim=1), rtol=1e-5)
    factors = torch.rand(4, dtype=torch.float64)
    assert torch.allclose(formed.weighted_sum(factors).flatten(), factors @ whole, atol=1e-5)


def test_what_cancels_in_a_gradient_does_not_make_it_look_short():
    """Two positions that cancel up to rounding: the true norm is never above the one that clips."""
    torch.manual_seed(0)
    left, right = torch.randn(3, 1, 60), torch.randn(3, 1, 60)
    piece = Outer(
        torch.cat([left, -left * (1 + 2.0**-20)], dim=1), torch.cat([right, right], dim=1), 60, (60, 60)
    )
    exact = torch.bmm(piece.left.double().mT, piece.right.double()).flatten(1).norm(dim=1)
    norms = Gathered([piece]).squared_norms().sqrt()
    assert bool((norms >= exact).all())
    mass = (piece.left.norm(dim=2) * piece.right.norm(dim=2)).sum(dim=1).double()
    assert bool((norms >= mass * 2.0**-7 * (1 - 1e-6)).all())


def test_slacks_are_what_the_error_bounds_say():
    u = 2.0**-24
    of_blocks = 4 * BLOCK * (BLOCK + 2) * u * (1 + 2 * (BLOCK + 2) * u)
    of_positions = (BLOCK + 2) * u * (1 + 2 * (BLOCK + 2) * u) * 2.0**7
    of_totals = 2 * MOST_ROUNDINGS * u * (1 + 2.0**-10)
    assert of_blocks + of_positions + of_totals <= SUM_SLACK
    assert NORM_SLACK >= 2**32 / 16 * 2.0**-53
    assert 2 * MAX_TERMS * 2.0**-53 * 2.0**7 <= 2.0**-21


def test_float32_norms_are_within_their_slack():
    torch.manual_seed(0)
    values = torch.randn(50, 10_001) * torch.logspace(-6, 6, 50).unsqueeze(1)
    norms = Dense(values, (10_001,)).squared_norms().sqrt()
    exact = values.double().norm(dim=1)
    assert bool((norms >= exact * (1 - NORM_SLACK)).all())
    assert torch.allclose(norms, exact, rtol=1e-6)


def test_sums_of_gradients_that_are_formed_are_in_float64():
    """All records' shares point the same way, so that partial sums grow as fast as they can."""
    torch.manual_seed(0)
    row = torch.randn(1, 3000)
    values = row.expand(BLOCK, -1) * (1 + 1e-3 * torch.rand(BLOCK, 1))
    factors = 1.0 / values.double().norm(dim=1)
    found = Gathered([Dense(values, (3000,))]).weighted_sum(factors)
    exact = (values.double() * factors.unsqueeze(1)).sum(dim=0)
    assert torch.allclose(found, exact, rtol=1e-13, atol=0.0)


def test_gradients_that_are_formed_in_parts_are_those_of_one_tensor():
    torch.manual_seed(0)
    piece = outer(7, 64, 300, 250)
    formed, factors = piece.formed(), torch.rand(5, dtype=torch.float64)
    assert len(formed.parts) == 7
    whole = Gathered([Dense(formed.arranged().flatten(1), (300, 250))])
    found = Gathered([formed])
    assert torch.equal(found.squared_norms(), whole.squared_norms())
    assert torch.allclose(found.weighted_sum(factors), whole.weighted_sum(factors), rtol=1e-12, atol=1e-12)
    more = Gathered([formed, Dense(torch.ones(7, 300 * 250), (300, 250))]).weighted_sum(factors)
    assert torch.allclose(more, whole.weighted_sum(factors) + factors.sum(), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_totals_of_both_widths_round_once(dtype):
    """A product of more terms than one call takes, and a table's rows beside it."""
    torch.manual_seed(0)
    tied, big = [outer(300, 2, 30, 20), outer(300, 2, 30, 20, units=True)], outer(300, 16, 300, 200)
    for pieces in ([big], tied, [tied[0].formed()], [Dense(torch.randn(300, 600), (30, 20))]):
        gathered, factors = Gathered(pieces), torch.rand(300, dtype=torch.float64)
        own = gathered.weighted_sum(factors)
        before = torch.randn_like(own).to(dtype) * 1e4
        total = before.clone()
        gathered.add_to(total, factors, fresh=False)
        assert torch.equal(total, (before + own).to(dtype))
        assert torch.equal(gathered.weighted_sum(factors, dtype), own.to(dtype))


@pytest.mark.parametrize(("m", "n"), [(1500, 1300), (1300, 1500)])
@pytest.mark.parametrize("positions", [1, 16, 64, 150, 300])
def test_products_in_float32_are_within_their_slack(positions, m, n):
    """All shares point the same way, as in the test before; odd blocks, records that do not count."""
    torch.manual_seed(positions)
    rows, of = (BLOCK + 9, BLOCK + 3) if positions == 1 else (5, 4)
    left = torch.randn(1, 1, m).expand(rows, positions, -1) * (1 + 1e-3 * torch.rand(rows, positions, 1))
    right = torch.randn(1, 1, n).expand(rows, positions, -1) * (1 + 1e-3 * torch.rand(rows, positions, 1))
    whole = Gathered([Outer(left, right, m, (m, n))])
    factors = 1.0 / whole.squared_norms().sqrt()[:of]
    exact = torch.einsum("rpm,rpn->mn", left[:of].double() * factors.view(-1, 1, 1), right[:of].double())
    found = whole.weighted_sum(factors)
    assert whole.outers
    error = float((found - exact).norm())
    assert error <= (SUM_SLACK / 4 if positions == 1 else of * (BLOCK + 2) * 2.0**-24)
    assert error > 0.0  # it is float32


@pytest.mark.parametrize("positions", [1, 20])
def test_a_records_part_of_a_product_does_not_depend_on_the_others(positions):
    torch.manual_seed(0)
    rows = BLOCK + 7 if positions == 1 else 6
    left, right = torch.randn(rows, positions, 260), torch.randn(rows, positions, 300)
    factors = torch.rand(rows, dtype=torch.float64)
    factors[1:] = 0.0
    first = Gathered([Outer(left, right, 260, (260, 300))]).weighted_sum(factors)
    others = torch.cat([left[:1], torch.randn(rows - 1, positions, 260)])
    fewer = factors[: rows - 3]
    assert torch.equal(Gathered([Outer(others, right, 260, (260, 300))]).weighted_sum(fewer), first)
    if positions > 1:  # wherever it stands
        order = torch.arange(rows).roll(2)
        moved = Outer(left[order], right[order], 260, (260, 300))
        assert torch.equal(Gathered([moved]).weighted_sum(factors[order]), first)


@pytest.mark.parametrize("positions", [1, 20])
@pytest.mark.parametrize("large", ["left", "right"])
def test_records_with_sides_that_underflow_could_hide_count_for_nothing(positions, large):
    """In float32 a factor times 1e-30 may be subnormal, and 1e15 times its error is not bounded by C."""
    tiny, huge = torch.full((1, positions, 260), 1e-30), torch.full((1, positions, 300), 1e15)
    left, right = (tiny, huge) if large == "right" else (huge, tiny)
    m, n = left.shape[2], right.shape[2]
    piece = Gathered([Outer(left, right, m, (m, n))])
    squares = piece.squared_norms()
    assert bool(torch.isfinite(squares).all())
    factors = FlatClipping(1e-8).factors(squares.unsqueeze(0), ((0,),))[0]
    assert not piece.weighted_sum(factors).any()


def test_gradients_are_added_once():
    keeper = BookKeeper(small())
    keeper.begin(3)
    keeper.backward(loss(keeper.model(torch.randn(3, 4))))
    gradients = keeper.collect()
    clipped_sum(keeper, gradients, FlatClipping(1.0), 3)
    with pytest.raises(ProtocolError, match="already"):
        clipped_sum(keeper, gradients, FlatClipping(1.0), 3)


def test_a_total_rounds_once_a_micro_batch():
    """A thousand positions of one token, each lost beside 2**53 if it were added to the total by itself."""
    keeper = BookKeeper(torch.nn.Embedding(5000, 1))  # too large for gradients to be formed
    keeper.begin(2)
    tokens = torch.zeros(2, 1000, dtype=torch.long)
    keeper.backward(keeper.model(tokens).sum(dim=(1, 2)) * 2.0**-2)
    totals = {"weight": torch.full((5000, 1), 2.0**53, dtype=torch.float64)}
    clipped_sum(keeper, keeper.collect(), FlatClipping(1e6), 2, into=totals)
    moved = (totals["weight"] - 2.0**53).flatten()
    assert (moved[0], moved[1:].any()) == (500.0, False)


def test_too_many_terms_for_float64_are_refused():
    big = Gathered([Dense(torch.zeros(1, 1).expand(2**12, 1), (1,))])
    with pytest.raises(InvalidArgumentError, match="smaller physical batches"):
        big.weighted_sum(torch.zeros(2**12, dtype=torch.float64))


# ---- the model stays the user's own


def test_nothing_of_the_model_changes():
    model, inputs = small(), torch.randn(6, 4)
    before, names = {k: v.clone() for k, v in model.state_dict().items()}, [*model.state_dict()]
    run(model, inputs)
    assert [*model.state_dict()] == names
    assert type(model) is nn.Sequential
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    loss(model(inputs)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_outputs_are_the_models_own():
    model, inputs = make("transformer encoder", 4)
    expected = model(inputs)
    keeper = BookKeeper(model)
    keeper.begin(4)
    assert torch.allclose(model(inputs), expected, atol=1e-6)


def test_copies_and_pickles_of_an_attached_model_are_free_of_it():
    model = small()
    keeper = BookKeeper(model)
    twin, file = copy.deepcopy(model), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for copied in (twin, torch.load(file, weights_only=False)):
        loss(copied(torch.randn(2, 4))).sum().backward()
        assert all(p.grad is not None for p in copied.parameters())
        BookKeeper(copied).close()
    keeper.close()


def test_evaluation_is_left_alone():
    model, inputs = small(), torch.randn(6, 4)
    keeper = BookKeeper(model)
    keeper.begin(6)
    losses = loss(model(inputs))
    with torch.no_grad():
        model(torch.randn(100, 4))
    keeper.backward(losses)
    assert keeper.collect().squared_norms.shape == (4, 6)


def test_an_error_within_the_model_leaves_no_mode_behind():
    model = small()
    keeper = BookKeeper(model)
    keeper.begin(2)
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.randn(2, 5))
    assert torch.overrides._get_current_function_mode() is None
    keeper.backward(loss(model(torch.randn(2, 4))))
    keeper.collect()


def test_frozen_parameters_take_no_part():
    model = small()
    model[0].weight.requires_grad_(requires_grad=False)
    gradients = run(model, torch.randn(6, 4))
    assert gradients.names == ("0.bias", "2.weight", "2.bias")


def test_a_parameter_that_is_not_used_has_a_sum_of_zero():
    model = small()
    model.unused = nn.Parameter(torch.ones(3))
    keeper = BookKeeper(model)
    keeper.begin(2)
    keeper.backward(loss(model(torch.randn(2, 4))))
    sums = clipped_sum(keeper, keeper.collect(), FlatClipping(1.0), 2)
    assert not sums["unused"].any()


# ---- draws of the model


class Noisy(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.layer, self.draw = nn.Linear(4, 4), draw

    def forward(self, x):
        return self.draw(self.layer(x))


def test_dropout_is_not_decided_by_seeds_of_others():
    model, inputs = Noisy(nn.Dropout(0.5)), torch.ones(2, 4)
    keeper, outputs = BookKeeper(model), []
    for _ in range(4):
        torch.manual_seed(1)
        keeper.begin(2)
        outputs.append(model(inputs).detach())
    assert any(not torch.equal(out, outputs[0]) for out in outputs)
    outputs = []
    for _ in range(2):
        keeper.begin(2, seed=5)
        outputs.append(model(inputs).detach())
    assert torch.equal(*outputs)
    assert model.eval()(inputs) is not None


@pytest.mark.parametrize(
    "kind", [nn.Dropout(0.3), nn.Dropout1d(0.3), nn.Dropout(0.3, inplace=True), nn.Dropout(1.0)]
)
def test_dropout_has_the_right_law(kind):
    model = Noisy(kind)
    with torch.no_grad():
        model.layer.weight.zero_()
        model.layer.bias.fill_(1.0)
    keeper = BookKeeper(model)
    keeper.begin(500, seed=1)
    out = model(torch.ones(500, 3, 4)).detach()
    kept = float((out != 0).float().mean())
    assert kept == pytest.approx(1 - kind.p, abs=0.05)
    for value in out.unique().tolist():
        assert value == 0.0 or value == pytest.approx(1 / (1 - kind.p))


def test_dropped_attention_is_captured():
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    gradients = run(model, torch.randn(3, 5, 8))
    assert len(gradients.names) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "draw",
    [lambda x: x + torch.rand(4), lambda x: torch.bernoulli(x.sigmoid()), nn.RReLU(), nn.AlphaDropout(0.5)],
)
def test_other_draws_are_refused(draw):
    with pytest.raises(UnsupportedError, match="global generator"):
        run(Noisy(draw), torch.randn(2, 4))


# ---- refusals


def test_batch_norm_is_refused_and_fixed():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Sequential(nn.BatchNorm1d(6))
    )
    with pytest.raises(UnsupportedError, match=r"1 \(BatchNorm2d\).*GroupNorm.*fix"):
        BookKeeper(model)
    with torch.no_grad():
        model[1].weight.fill_(2.0)
    fixed = clipping.fix(model, max_groups=4)
    assert fixed is model
    assert isinstance(model[1], nn.GroupNorm)
    assert model[1].num_groups == 3
    assert float(model[1].weight.detach()[0]) == 2.0
    assert isinstance(model[3][0], nn.GroupNorm)
    run(model, torch.randn(3, 2, 3, 3))
    assert isinstance(clipping.fix(nn.BatchNorm1d(5)), nn.GroupNorm)


def test_batch_norm_that_wakes_up_later_is_refused():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).eval()
    run(model, torch.randn(3, 4))
    keeper = BookKeeper(model)
    model.train()
    keeper.begin(3)
    with pytest.raises(UnsupportedError, match="GroupNorm"):
        model(torch.randn(3, 4))


class Penalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x), (self.layer.weight**2).sum()


class Stretched(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(3, 4))

    def forward(self, x):
        return x * self.table


def outside(model):
    return lambda out: loss(out) + model[0].weight.sum()


@pytest.mark.parametrize(
    ("make_model", "shape", "names"),
    [
        (lambda: nn.Embedding(4, 3, max_norm=1.0), None, "max_norm"),
        (lambda: nn.Embedding(4, 3, scale_grad_by_freq=True), None, "scale_grad_by_freq"),
        (lambda: nn.Embedding(4, 3, sparse=True), None, "sparse"),
        (Stretched, (4,), "stretch over several"),
        (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True), "attention", "bias_k"),
        (
            lambda: nn.MultiheadAttention(4, 2, add_zero_attn=True, batch_first=True),
            "attention",
            "add_zero_attn",
        ),
    ],
)
def test_what_has_no_bound_is_refused_by_name(make_model, shape, names):
    model, keeper_error = make_model(), pytest.raises(UnsupportedError, match=names)
    if shape is None:
        with keeper_error:
            run(model, torch.zeros(3, 2, dtype=torch.long))
    elif shape == "attention":
        keeper, x = BookKeeper(model), torch.randn(3, 2, 4)
        keeper.begin(3)
        with keeper_error:
            model(x, x, x)
    else:
        with keeper_error:
            run(model, torch.randn(3, *shape))


def test_records_that_do_not_come_first_are_refused():
    keeper = BookKeeper(model := nn.Linear(4, 3))
    keeper.begin(2)
    with pytest.raises(UnsupportedError, match=r"no input.*2 records.*batch_first"):
        model(torch.randn(5, 2, 4))


def test_records_that_move_to_another_place_are_refused():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x.transpose(0, 1)).sum(dim=(0, 2))

    keeper = BookKeeper(model := Turned())
    keeper.begin(2)
    losses = model(torch.randn(2, 5, 4))
    with pytest.raises(UnsupportedError, match=r"first dimension.*batch_first"):
        keeper.backward(losses)


@pytest.mark.parametrize("write", ["add", "replace"])
def test_buffers_that_take_up_records_are_refused(write):
    """Running statistics would hold private values that no noise protects."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x):
            if write == "add":
                self.seen += x.detach().mean(dim=0)
            else:
                self.seen = self.seen + x.detach().mean(dim=0)
            return self.layer(x)

    with pytest.raises(UnsupportedError, match="buffer seen"):
        run(Counting(), torch.randn(2, 4))
    norm = nn.Sequential(
        nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True)
    )
    with pytest.raises(UnsupportedError, match=r"buffer 2\.running_mean"):
        run(norm, torch.randn(2, 4))


def test_packed_sequences_are_refused():
    keeper = BookKeeper(model := nn.GRU(3, 4, batch_first=True))
    keeper.begin(2)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 3, 3), torch.tensor([3, 1]), batch_first=True)
    with pytest.raises(UnsupportedError, match="packed"):
        model(packed)


def test_a_parameter_used_outside_of_the_model_is_refused_and_gets_no_gradient():
    model = small()
    with pytest.raises(UnsupportedError, match=r"0\.weight.*outside"):
        run(model, torch.randn(3, 4), outside(model))
    assert all(p.grad is None for p in model.parameters())


def test_a_batch_that_has_not_begun_is_refused():
    model = small()
    keeper = BookKeeper(model)
    with pytest.raises(UnsupportedError, match=r"privacy\.loader"):
        loss(model(torch.randn(3, 4))).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    keeper.close()


def test_checkpointing_is_refused():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return checkpoint(self.layer, x, use_reentrant=False)

    keeper = BookKeeper(model := Checkpointed())
    keeper.begin(3)
    losses = loss(model(torch.randn(3, 4, requires_grad=True)))
    with pytest.raises(Exception):  # noqa: B017, PT011 (torch's own, or ours)
        keeper.backward(losses)
    assert all(p.grad is None for p in model.parameters())


def test_layers_without_a_rule_say_so(caplog):
    with caplog.at_level(logging.WARNING, logger="fedsec.clipping"):
        run(nn.Sequential(nn.Linear(4, 3), nn.PReLU(3), nn.PReLU(3)), torch.randn(2, 4))
    assert [record.message for record in caplog.records] == [
        "prelu has no rule for gradients of single records: it runs through torch.func.vmap"
    ]


def test_penalties_on_weights_are_refused():
    with pytest.raises(UnsupportedError, match="weight_decay"):
        run(Penalised(), torch.randn(3, 4), lambda out: loss(out[0]) + out[1])


@pytest.mark.parametrize(
    ("make_model", "error", "names"),
    [
        (nn.Flatten, InvalidArgumentError, "no parameter"),
        (lambda: nn.Linear(2, 2).half(), InvalidTypeError, "float16"),
        (lambda: 3, InvalidTypeError, "Module, got int"),
    ],
)
def test_models_that_cannot_be_attached(make_model, error, names):
    with pytest.raises(error, match=names):
        BookKeeper(make_model())


def test_one_model_is_attached_once():
    model = small()
    keeper = BookKeeper(model)
    with pytest.raises(UnsupportedError, match="attached already"):
        BookKeeper(model)
    keeper.close()
    BookKeeper(model).close()


def test_a_compiled_model_is_refused():
    model = torch.compile(small(), backend="eager")
    with pytest.raises(UnsupportedError, match=r"torch\.compile"):
        BookKeeper(model)


@pytest.mark.parametrize(
    ("losses", "error", "names"),
    [
        (lambda out: loss(out).mean(), InvalidArgumentError, r"shape \(3,\), got \(\)"),
        (lambda out: out, InvalidArgumentError, r"got \(3, 3\)"),
        (lambda out: 1.0, InvalidTypeError, "float"),
        (lambda out: loss(out) * torch.tensor([1.0, math.nan, 1.0]), NonFiniteError, "nan"),
        (lambda out: torch.zeros(3), InvalidArgumentError, "do not depend"),
    ],
)
def test_losses_are_one_finite_number_a_record(losses, error, names):
    model = small()
    with pytest.raises(error, match=names):
        run(model, torch.randn(3, 4), losses)
    assert all(p.grad is None for p in model.parameters())


def test_an_infinite_gradient_is_named():
    model = small()
    keeper = BookKeeper(model)
    keeper.begin(3)
    out = model(torch.randn(3, 4))
    keeper.backward(torch.sqrt(out - out.detach()).sum(dim=1))
    with pytest.raises(NonFiniteError, match=r"0\.weight"):
        clipped_sum(keeper, keeper.collect(), FlatClipping(1.0), 3)


def test_calls_out_of_turn():
    model = small()
    keeper = BookKeeper(model)
    with pytest.raises(ProtocolError, match="no micro-batch"):
        keeper.backward(torch.zeros(2))
    keeper.begin(2)
    with pytest.raises(ProtocolError, match="no backward"):
        keeper.collect()
    keeper.begin(2, plain_backward=True)
    losses = loss(model(torch.randn(2, 4)))
    losses.sum().backward(retain_graph=True)
    with pytest.raises(ProtocolError, match="twice"):
        losses.sum().backward()


def test_parameters_that_change_in_between_are_seen():
    model = small()
    keeper = BookKeeper(model)
    keeper.begin(2)
    keeper.backward(loss(model(torch.randn(2, 4))))
    with torch.no_grad():
        model[2].bias.add_(1.0)
    with pytest.raises(ProtocolError, match=r"2\.bias was changed"):
        keeper.collect()


@pytest.mark.parametrize("norm", [0.0, 1e-9, 1e9, math.nan])
def test_clip_norms_have_a_range(norm):
    with pytest.raises(InvalidArgumentError, match="l2_clip_norm"):
        FlatClipping(norm)
    with pytest.raises(InvalidArgumentError, match="gamma"):
        AutomaticClipping(1.0, gamma=norm if norm in (0.0, math.inf) else -1.0)


def test_a_zero_gradient_is_not_divided_by_its_norm():
    gradients = run(nn.Linear(2, 1), torch.zeros(2, 2), lambda out: 0.0 * out.sum(dim=1))
    factors = FlatClipping(1.0).factors(gradients.squared_norms, ((0, 1),))
    assert bool((factors == 1.0).all())
    assert FlatClipping(1.0).clipped(gradients.squared_norms) == 0


def test_attention_masks_are_torchs_own():
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(3, 5, 8)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for options in (
        {"key_padding_mask": padding},
        {"attn_mask": future, "is_causal": True},
        {"attn_mask": future, "key_padding_mask": padding},
        {"attn_mask": torch.randn(6, 5, 5), "need_weights": False},
        {"average_attn_weights": False},
    ):
        expected = model(x, x, x, **options)
        keeper = BookKeeper(model)
        keeper.begin(3)
        found = model(x, x, x, **options)
        keeper.close()
        for one, other in zip(expected, found, strict=True):
            assert (one is None and other is None) or torch.allclose(one, other, atol=1e-6)


def test_scaled_dot_product_attention_with_dropout_is_drawn_by_us():
    class Plain(nn.Module):
        def __init__(self, p, **options):
            super().__init__()
            self.layer, self.p, self.options = nn.Linear(4, 4), p, options

        def forward(self, x):
            x = self.layer(x)
            return nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=self.p, **self.options)

    x = torch.randn(3, 5, 4)
    for options in (
        {},
        {"is_causal": True},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool)},
        {"scale": 0.3},
    ):
        model = Plain(0.0, **options)
        expected = model(x)
        model.p = 1e-12
        keeper = BookKeeper(model)
        keeper.begin(3)
        assert torch.allclose(model(x), expected, atol=1e-6)
        keeper.close()


@pytest.mark.parametrize("share", [1e-6, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("z", [0.3, 1.0, 1.1, 7.0])
def test_the_sum_and_the_count_of_adaptive_clipping_cost_what_the_step_says(z, share):
    """Two Gaussians on one sample are one of 1/z^2 = 1/a^2 + 1/b^2 [ATMR21], in exact arithmetic."""
    a, b = AdaptiveClipping(1.0, budget_share=share).multipliers(z)
    spent, said = 1 / Fraction(a) ** 2 + 1 / Fraction(b) ** 2, 1 / Fraction(z) ** 2
    assert spent <= said
    assert spent >= said * (1 - Fraction(1, 10**12))


def test_the_bound_follows_the_quantile():
    rule = AdaptiveClipping(2.0, target_quantile=0.5, learning_rate=0.2)
    assert rule.following(0.5) == rule
    assert rule.following(1.0).l2_clip_norm == pytest.approx(2.0 * math.exp(-0.1))
    assert rule.following(-3.0).l2_clip_norm == pytest.approx(2.0 * math.exp(0.1))
    assert AdaptiveClipping(1e-8).following(1.0).l2_clip_norm == 1e-8
    assert AdaptiveClipping(1e8).following(0.0).l2_clip_norm == 1e8
    for options in ({"target_quantile": 1.0}, {"learning_rate": 0.0}, {"budget_share": 0.0}):
        with pytest.raises(InvalidArgumentError, match=next(iter(options))):
            AdaptiveClipping(1.0, **options)
