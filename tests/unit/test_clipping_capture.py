"""Attacks on the capture: models that would have other gradients counted than those of single records."""

import math

import pytest
import torch
from reference.book_keeping_cases import loss
from torch import nn
from torch.nn.functional import dropout, linear, scaled_dot_product_attention

from fedsec.clipping import AutomaticClipping, BookKeeper, FlatClipping, PerLayerClipping, clipped_sum
from fedsec.errors import InvalidArgumentError, InvalidTypeError, ProtocolError, UnsupportedError

ROWS = 4


class Model(nn.Module):
    """Two layers, a parameter, and a forward pass of the test's."""

    def __init__(self, run, own=()):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)
        self.own = nn.Parameter(torch.randn(own))
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def rows_of(*shape):
    return torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(1))


def collected(model, x, loss_of=lambda model, x: loss(model(x))):
    keeper = BookKeeper(model)
    try:
        keeper.begin(len(x))
        keeper.backward(loss_of(model, x))
        return keeper.collect()
    finally:
        keeper.close()


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def gradient_of(model, losses):
    """The gradient of all trained parameters as one vector, zero where one is not used."""
    parts = torch.autograd.grad(losses.sum(), list(trained(model).values()), materialize_grads=True)
    return torch.cat([part.flatten() for part in parts]).double()


def assert_same(model, x, tolerance=1e-5):
    """Weighted sums of all parameters are those of the loop over single records."""
    expected = torch.stack([gradient_of(model, loss(model(x[i : i + 1]))) for i in range(len(x))])
    gradients = collected(model, x)
    factors = torch.linspace(0.2, 1.0, len(x), dtype=torch.float64)
    sums = gradients.weighted_sums(factors.expand(len(gradients.names), -1))
    found = [sums.get(name, torch.zeros(p.shape)).flatten() for name, p in trained(model).items()]
    total = factors @ expected
    assert float((torch.cat(found) - total).norm()) <= tolerance * float(total.norm())
    norms = gradients.squared_norms.sum(dim=0).sqrt()
    assert torch.allclose(norms, expected.norm(dim=1), rtol=tolerance)


# ---- what is counted as it should be


def filled(model, x):
    buffer = torch.zeros(len(x), 3)
    buffer[:, :2] = x
    return model.two(model.one(buffer))


def copied(model, x):
    buffer = torch.zeros(len(x), 3)
    buffer[:, :2].copy_(x)
    return model.two(model.one(buffer))


def stepped(start):
    def run(model, x):
        hidden = start(x)
        for t in range(x.shape[1]):
            hidden = torch.tanh(model.one(x[:, t]) + linear(hidden, model.own))
        return hidden

    return run


def constant(model, x):
    """Twice as many positions as records, and no record in them."""
    return model.two(model.one(x).unsqueeze(1) + model.one(x.new_ones(2 * ROWS, 3)))


def windows(model, x):
    return model.two(model.one(x.reshape(2 * len(x), 4, 3)) + model.own).reshape(len(x), 8, 2)


FOLLOWED = {
    "a buffer that records are written to": (filled, (2,), ()),
    "a part of a buffer": (copied, (2,), ()),
    "a hidden state of zeros": (stepped(lambda x: torch.zeros(len(x), 4)), (5, 3), (4, 4)),
    "new_zeros": (stepped(lambda x: x.new_zeros(len(x), 4)), (5, 3), (4, 4)),
    "a constant from a record's tensor": (constant, (3,), ()),
    "several rows a record": (windows, (8, 3), (4, 4)),
    "a scalar used twice": (lambda m, x: (1 - m.own) * m.one(x) + m.own * x.sum(1, True), (3,), ()),
    "type_as": (lambda m, x: m.two(m.one(x) * m.own.type_as(x)), (3,), (4,)),
    "broadcast_to": (
        lambda m, x: m.one(torch.cat([torch.broadcast_to(m.own, (len(x), 1, 3)), x], 1)),
        (2, 3),
        (1, 1, 3),
    ),
    "elements set where they are": (lambda m, x: m.two(zeroed(m.one(x))), (3,), ()),
    "rows of a table": (lambda m, x: m.one(x) + m.own[(x[:, 0] > 0).long()], (3,), (2, 4)),
}


def zeroed(x):
    x = x.clone()
    x[x > 0.5] = 0.0
    return x


@pytest.mark.parametrize("case", FOLLOWED)
def test_gradients_are_those_of_the_loop(case):
    run, shape, own = FOLLOWED[case]
    assert_same(Model(run, own), rows_of(*shape))


class Parts(nn.Module):
    """Layers and parameters by name, and a forward pass of the test's."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def frozen(part):
    return part.requires_grad_(requires_grad=False)


def drawn(*shape):
    return nn.Parameter(torch.randn(shape))


def attention(*, freeze=False, **options):
    """Keys and values of other sizes than queries: a weight of its own for each."""
    layer = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, batch_first=True, **options)
    if layer.in_proj_bias is not None:
        nn.init.normal_(layer.in_proj_bias)
        layer.in_proj_bias.requires_grad_(not freeze)
    return Parts(lambda m, x: m.one(x, x[..., :6], x[..., :5], need_weights=False)[0], one=layer)


def looks_back(m, x):
    return scaled_dot_product_attention(m.one(x), m.one(x), x, is_causal=True)


def by_tokens(m, x):
    return m.one(m.own.expand(len(x), -1, -1), x, x)[0]


FOLLOWED_PARTS = {
    "attention with three weights": (attention, (3, 8)),
    "attention with three weights, without bias": (lambda: attention(bias=False), (3, 8)),
    "attention with three weights, bias frozen": (lambda: attention(freeze=True), (3, 8)),
    "attention that looks back": (lambda: Parts(looks_back, one=nn.Linear(8, 8)), (3, 8)),
    "attention of a parameter": (
        lambda: Parts(by_tokens, one=nn.MultiheadAttention(8, 2, batch_first=True), own=drawn(1, 2, 8)),
        (3, 8),
    ),
    "a frozen convolution": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2), frozen(nn.Conv1d(3, 3, 2)), nn.Flatten(), nn.Linear(9, 2)),
        (2, 5),
    ),
    "a frozen norm": (
        lambda: nn.Sequential(nn.Linear(4, 6), frozen(nn.LayerNorm(6)), nn.Linear(6, 2)),
        (4,),
    ),
    "a frozen embedding": (
        lambda: Parts(
            lambda m, x: m.two(m.one((x > 0).long())), one=frozen(nn.Embedding(2, 4)), two=nn.Linear(4, 2)
        ),
        (4,),
    ),
    "addmm, bias frozen": (
        lambda: Parts(lambda m, x: torch.addmm(m.one, x, m.two), one=frozen(drawn(3)), two=drawn(4, 3)),
        (4,),
    ),
    "addmm, weight frozen": (
        lambda: Parts(lambda m, x: torch.addmm(m.one, x, m.two), one=drawn(3), two=frozen(drawn(4, 3))),
        (4,),
    ),
    "addmm with a factor": (
        lambda: Parts(lambda m, x: torch.addmm(m.one, x, m.two, beta=0.5), one=drawn(3), two=drawn(4, 3)),
        (4,),
    ),
    "a frozen matrix": (
        lambda: Parts(
            lambda m, x: torch.matmul(m.one(x), m.two), one=nn.Linear(4, 4), two=frozen(drawn(4, 3))
        ),
        (4,),
    ),
    "a vector": (lambda: Parts(lambda m, x: torch.matmul(x, m.one).unsqueeze(1), one=drawn(4)), (4,)),
    "a matrix on the left": (
        lambda: Parts(lambda m, x: torch.matmul(m.one, x.unsqueeze(-1)), one=drawn(3, 4)),
        (4,),
    ),
    "a convolution of a constant": (
        lambda: Parts(lambda m, x: x * m.one(torch.ones(1, 2, 5)).flatten(), one=nn.Conv1d(2, 1, 2)),
        (4,),
    ),
    "a convolution of several rows a record": (
        lambda: Parts(
            lambda m, x: m.one(x.reshape(2 * len(x), 1, 4)).reshape(len(x), -1), one=nn.Conv1d(1, 3, 2)
        ),
        (8,),
    ),
    "large convolutions of several rows a record": (
        lambda: Parts(
            lambda m, x: m.one(x.reshape(2 * len(x), 9, 8)).reshape(len(x), -1), one=nn.Conv1d(9, 40, 2)
        ),
        (18, 8),
    ),
    "copies of a parameter that are not one a record": (
        lambda: Parts(lambda m, x: x * m.one.expand(3, 4).sum(0), one=drawn(1, 4)),
        (4,),
    ),
    "more copies of a parameter than one a record": (
        lambda: Parts(lambda m, x: x * m.one.repeat(len(x), 2, 1).sum(1), one=drawn(1, 4)),
        (4,),
    ),
    "a large weight computed from a parameter": (
        lambda: Parts(lambda m, x: linear(x, m.one * m.one.abs()), one=drawn(300, 290)),
        (2, 290),
    ),
    "an output given": (
        lambda: Parts(lambda m, x: m.one(torch.add(x, 1.0, out=torch.empty(len(x), 4))), one=nn.Linear(4, 4)),
        (4,),
    ),
    "positions of each record in its own order": (
        lambda: Parts(lambda m, x: torch.take_along_dim(m.one(x), x.argsort(1), 1), one=nn.Linear(4, 4)),
        (4,),
    ),
}


@pytest.mark.parametrize("case", FOLLOWED_PARTS)
def test_gradients_of_parts_are_those_of_the_loop(case):
    torch.manual_seed(0)
    make, shape = FOLLOWED_PARTS[case]
    assert_same(make(), rows_of(*shape))


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell, "relu"])
def test_recurrent_cells_have_a_rule(kind):
    class Stepped(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.cell = nn.RNNCell(3, 4, nonlinearity="relu") if kind == "relu" else kind(3, 4)

        def forward(self, x):
            state = None
            for t in range(x.shape[1]):
                state = self.cell(x[:, t], state)
            return state[0] if isinstance(state, tuple) else state

    assert_same(Stepped(), rows_of(5, 3))


@pytest.mark.parametrize(
    "layers",
    [
        lambda: nn.Sequential(nn.Linear(9, 40), nn.LayerNorm(40), nn.Tanh(), nn.Linear(40, 2)),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 9)), nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten()),
    ],
)
def test_autocast_is_widened_before_anything_is_summed(layers):
    """In bfloat16 norms and factors would be off by 0.4 %, and the sensitivity holds 0.2 %."""
    torch.manual_seed(0)
    model, x = layers(), rows_of(9)

    def losses(model, x):
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
        return loss(out.float())

    gradients = collected(model, x, losses)
    for row in range(ROWS):
        factors = torch.zeros(len(gradients.names), ROWS, dtype=torch.float64)
        factors[:, row] = 1.0
        total = sum(float(part.square().sum()) for part in gradients.weighted_sums(factors).values())
        assert math.sqrt(total) == pytest.approx(
            float(gradients.squared_norms[:, row].sum().sqrt()), rel=1e-6
        )


def test_matrix_products_of_fewer_bits_are_not_trusted():
    """torch.set_float32_matmul_precision("medium") multiplies in bfloat16 where the CPU can."""
    model, x = nn.Linear(300, 300, bias=False), torch.randn(64, 300)
    gradients = collected(model, x, lambda model, x: model(x).sum(dim=1))
    factors = torch.rand(1, 64, dtype=torch.float64)
    exact = (factors[0] @ x.double()).expand(300, 300)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = gradients.weighted_sums(factors)["weight"]
    finally:
        torch.set_float32_matmul_precision(before)
    assert float((found - exact).norm() / exact.norm()) < 1e-6


def test_other_uses_of_autograd_add_nothing():
    """An adversarial example takes the gradient of its input; that of parameters is not asked for."""
    model, x = Model(lambda m, x: m.two(torch.tanh(m.one(x)))), rows_of(3)

    def losses(model, x, *_):
        own = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(own).sum(), own)
        return loss(model(x + 0.1 * slope.sign()))

    rows = [gradient_of(model, losses(model, x[i : i + 1])) for i in range(ROWS)]
    gradients = collected(model, x, losses)
    assert torch.allclose(gradients.squared_norms.sum(dim=0).sqrt(), torch.stack(rows).norm(dim=1), rtol=1e-5)


# ---- what is refused


def by_length(model, x):
    order = x[:, 0].argsort()
    return model.two(model.one(x)[order])[order.argsort()]


def by_index(model, x):
    order = x[:, 0].argsort()
    return model.two(model.one(x).index_select(0, order)).index_select(0, order.argsort())


def forces(model, x):
    x = x.clone().requires_grad_()
    (force,) = torch.autograd.grad(model.one(x).relu().sum(), x, create_graph=True)
    return torch.cat([force, 0 * x], dim=1)


def changed(model, x):
    hidden = torch.relu(model.one(x))
    out = model.two(hidden)
    hidden.detach().add_(1.0)
    return out


def noisy(model, x):
    with torch.no_grad():
        noise = torch.randn_like(x)
    return model.one(x + noise)


def carried(model, x):
    out = model.one(x) + getattr(model, "state", 0.0)
    model.state = out.detach()
    return out


REFUSED = {
    "sorted by what is in them": (by_length, "__getitem__ chooses records"),
    "index_select": (by_index, "index_select chooses records"),
    "a mask that happens to keep all": (lambda m, x: m.two(m.one(x)[x[:, 0] < 99]), "__getitem__ chooses"),
    "positions by nonzero": (lambda m, x: m.one(x)[(x[:, 0] < 99).nonzero()[:, 0]], "nonzero chooses"),
    "one argument of where": (lambda m, x: m.one(x)[torch.where(x[:, 0] < 99)], "where chooses"),
    "sums at places": (
        lambda m, x: torch.zeros(ROWS, 4).index_add(0, (x[:, 0] > 0).long(), m.one(x)),
        "index_add chooses",
    ),
    "gradients of gradients": (forces, "create_graph=True"),
    "an input changed afterwards": (changed, "changed in place"),
    "draws without gradients": (noisy, r"global generator \(randn_like\)"),
    "joined to the batch": (lambda m, x: m.two(torch.cat([m.own, m.one(x)])), "cat gives something else"),
    "vmap within the model": (lambda m, x: torch.func.vmap(m.one)(x), "transform of torch.func"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_is_refused(case):
    run, names = REFUSED[case]
    with pytest.raises(UnsupportedError, match=names):
        collected(Model(run, own=(2, 4)), rows_of(3))


REFUSED_PARTS = {
    "a parameter as keys": (
        lambda: Parts(
            lambda m, x: scaled_dot_product_attention(m.one(x), m.two, x),
            one=nn.Linear(4, 4),
            two=drawn(3, 4),
        ),
        (3, 4),
        "itself query, key, value",
    ),
    "attention of a constant": (
        lambda: Parts(
            lambda m, x: m.one(torch.ones(len(x), 2, 4), x, x)[0],
            one=nn.MultiheadAttention(4, 2, batch_first=True),
        ),
        (3, 4),
        "depend on the record",
    ),
    "a norm of a constant": (
        lambda: Parts(
            lambda m, x: m.two(x) + m.one(torch.arange(4.0)), one=nn.LayerNorm(4), two=nn.Linear(4, 4)
        ),
        (4,),
        "holds no records",
    ),
    "records in the order of a column": (
        lambda: Parts(lambda m, x: torch.take_along_dim(m.one(x), x.argsort(0), 0), one=nn.Linear(4, 4)),
        (4,),
        "take_along_dim chooses records",
    ),
}


@pytest.mark.parametrize("case", REFUSED_PARTS)
def test_parts_that_cannot_be_followed_are_refused(case):
    make, shape, names = REFUSED_PARTS[case]
    with pytest.raises(UnsupportedError, match=names):
        collected(make(), rows_of(*shape))


def test_a_hidden_state_of_an_earlier_batch_is_refused():
    keeper = BookKeeper(model := Model(carried))
    keeper.begin(ROWS)
    keeper.backward(loss(model(rows_of(3))))
    keeper.collect()
    keeper.begin(ROWS)
    with pytest.raises(UnsupportedError, match="earlier micro-batch"):
        model(rows_of(3))


def test_dropout_without_gradients_has_our_masks_too():
    def run(model, x):
        with torch.no_grad():
            x = dropout(x, 0.5)
        return model.one(x)

    keeper, outputs = BookKeeper(model := Model(run)), []
    for _ in range(4):
        torch.manual_seed(1)
        keeper.begin(ROWS)
        outputs.append(model(rows_of(3)).detach())
    assert any(not torch.equal(out, outputs[0]) for out in outputs)


def test_parameters_are_what_they_were_at_attach():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    keeper = BookKeeper(model)
    keeper.begin(ROWS)
    model[0].requires_grad_(requires_grad=False)
    with pytest.raises(UnsupportedError, match=r"0\.weight was frozen after attach"):
        model(rows_of(3))
    model[0].requires_grad_()
    model.bfloat16()
    with pytest.raises(InvalidTypeError, match="bfloat16"):
        model(rows_of(3).bfloat16())
    model.float()
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    with pytest.raises(UnsupportedError, match="added after attach"):
        model(rows_of(3))


def test_a_part_of_a_model_is_not_attached_twice():
    part = nn.Linear(3, 4)
    keeper = BookKeeper(part)
    with pytest.raises(UnsupportedError, match="a part of it, is attached already"):
        BookKeeper(nn.Sequential(part, nn.Linear(4, 2)))
    keeper.close()
    BookKeeper(nn.Sequential(part, nn.Linear(4, 2))).close()


def test_an_interrupted_forward_pass_leaves_nothing_behind():
    def interrupted(model, x):
        raise KeyboardInterrupt

    keeper = BookKeeper(model := Model(interrupted))
    keeper.begin(ROWS)
    x = rows_of(3)
    with pytest.raises(KeyboardInterrupt):
        model(x)
    keeper.drop()
    assert torch.overrides._get_current_function_mode() is None
    model.run = lambda model, x: model.one(x)
    keeper.begin(ROWS)
    keeper.backward(loss(model(x)))
    assert keeper.collect().names == ("one.weight", "one.bias")


def test_an_uncounted_backward_is_no_backward():
    keeper = BookKeeper(model := nn.Linear(3, 2))
    keeper.begin(ROWS)
    loss(model(rows_of(3))).sum().backward()
    assert keeper.arrived
    with pytest.raises(ProtocolError, match="no backward"):
        keeper.collect()
    assert model.weight.grad is None


# ---- bounds at the ends of the range


def test_a_record_with_an_absurd_gradient_adds_no_more_than_any_other():
    """A factor that is no normal float32 number was rounded up by as much as 1.9."""
    rule, model = FlatClipping(1e-8), nn.Linear(400, 400, bias=False)
    keeper = BookKeeper(model)
    x = torch.zeros(2, 400)
    x[:, 0] = 1e19
    for slope in torch.logspace(17, 19, 20).tolist():
        keeper.begin(2)
        keeper.backward(model(x)[:, 0] * slope)
        total = clipped_sum(keeper, keeper.collect(), rule, 1)["weight"].norm()
        assert float(total) <= rule.l2_sensitivity
    keeper.close()


@pytest.mark.parametrize("gamma", [1e-30, 1e-9, 1e9])
def test_gamma_is_nothing_that_norms_cannot_resolve(gamma):
    with pytest.raises(InvalidArgumentError, match="gamma"):
        AutomaticClipping(1.0, gamma=gamma)


def test_a_layers_bound_does_not_depend_on_which_layers_are_used():
    squares = torch.full((2, 3), 4.0, dtype=torch.float64)
    factors = PerLayerClipping(1.0).factors(squares, ((0,), (), (1,), ()))
    assert torch.allclose(factors, torch.full((2, 3), 0.25, dtype=torch.float64), rtol=1e-4)
