"""Server optimizers: the paper's recursions, the optimum of a convex problem, and the digits."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import fedsec
from fedsec.errors import InvalidArgumentError
from fedsec.federated import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, proximal_term

# Each with parameters that suit the convex problem below.
ALL = {
    "fedavg": FedAvg(),
    "fedavgm": FedAvgM(learning_rate=0.2),
    "fedadagrad": FedAdagrad(learning_rate=0.5, tau=0.1),
    "fedadam": FedAdam(learning_rate=0.1, tau=0.1),
    "fedyogi": FedYogi(learning_rate=0.1, tau=0.1),
}


def by_hand(strategy, update, m, v):
    """[RCZ+21, Alg. 2], one coordinate at a time."""
    m = strategy.beta1 * m + (1 - strategy.beta1) * update
    if isinstance(strategy, FedAdagrad):
        v = v + update**2
    elif isinstance(strategy, FedAdam):
        v = strategy.beta2 * v + (1 - strategy.beta2) * update**2
    else:
        v = v - (1 - strategy.beta2) * update**2 * math.copysign(1.0, v - update**2)
    return strategy.learning_rate * m / (math.sqrt(v) + strategy.tau), m, v


@pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
def test_adaptive_steps_are_the_papers(kind):
    strategy, state = kind(learning_rate=0.3, beta1=0.7, tau=0.05), {}
    kept = [(0.0, strategy.tau**2)] * 3
    for seed in range(6):
        update = np.random.default_rng(seed).normal(size=3)
        steps = strategy.step(update, state)
        for i, (m, v) in enumerate(list(kept)):
            expected, *moments = by_hand(strategy, update[i], m, v)
            kept[i] = tuple(moments)
            assert steps[i] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_the_optimum_of_a_convex_problem_is_found(name):
    """sum n_i / n F_i with F_i(w) = |w - c_i|^2 / 2: the optimum is the weighted mean of the c_i."""
    generator = torch.Generator().manual_seed(3)
    centres, sizes = torch.randn(4, 5, generator=generator), [1, 5, 20, 2]
    model = torch.nn.Linear(4, 1)
    federation = fedsec.Federation(
        model, num_clients=4, num_rounds=300, secure_aggregation=False, strategy=ALL[name]
    )
    optimum = sum(n * c for n, c in zip(sizes, centres, strict=True)) / sum(sizes)

    def distance():
        return float((torch.cat([model.weight.flatten(), model.bias]).detach() - optimum).norm())

    start = distance()
    for rnd in federation.rounds():
        for client in rnd.cohort:
            local = rnd.model()
            with torch.no_grad():
                for parameter, centre in zip(local.parameters(), centres[client].split([4, 1]), strict=True):
                    parameter.add_(0.5 * (centre.view_as(parameter) - parameter))
            rnd.submit(client, local, weight=sizes[client])
        rnd.finish()
    assert distance() < 1e-3 * start


def test_fedprox_ends_at_the_optimum_of_its_own_objective():
    """Clients minimise |w - c|^2 / 2 + mu |w - w0|^2 / 2 wholly: w = (c + mu w0) / (1 + mu)."""
    centres, mu = [torch.full((3,), float(c)) for c in (-1.0, 0.0, 4.0)], 2.0
    model = torch.nn.Linear(3, 1, bias=False)
    federation = fedsec.Federation(model, num_clients=3, num_rounds=40, secure_aggregation=False)
    first = None
    for rnd in federation.rounds():
        for client in rnd.cohort:
            start = rnd.model()
            local = copy.deepcopy(start)
            optimizer = torch.optim.SGD(local.parameters(), lr=1 / (1 + mu))  # the Newton step
            loss = ((local.weight - centres[client]) ** 2).sum() / 2 + proximal_term(local, start, mu)
            loss.backward()
            optimizer.step()
            expected = (centres[client] + mu * start.weight) / (1 + mu)
            first = first or torch.testing.assert_close(local.weight, expected) or True
            rnd.submit(client, local)
        rnd.finish()
    torch.testing.assert_close(model.weight, torch.full((1, 3), 1.0), atol=1e-4, rtol=0)


def test_the_proximal_term_pulls_towards_the_start_and_leaves_the_start_alone():
    start, local = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    term = proximal_term(local, start, mu=3.0)
    term.backward()
    torch.testing.assert_close(local.weight.grad, 3.0 * (local.weight - start.weight))
    assert start.weight.grad is None
    assert proximal_term(local, local, mu=3.0).item() == 0.0
    assert proximal_term(local, start, mu=0.0).item() == 0.0
    with pytest.raises(InvalidArgumentError, match="mu"):
        proximal_term(local, start, mu=-1.0)
    with pytest.raises(InvalidArgumentError, match="no parameter"):
        proximal_term(torch.nn.Flatten(), torch.nn.Flatten(), mu=1.0)


DIGITS = {
    "fedavg": FedAvg(),
    "fedavgm": FedAvgM(learning_rate=0.3),
    "fedadagrad": FedAdagrad(learning_rate=0.1),
    "fedadam": FedAdam(learning_rate=0.03),
    "fedyogi": FedYogi(learning_rate=0.03),
    "fedprox": FedAvg(),
}


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


@pytest.mark.parametrize("name", DIGITS)
def test_the_digits_are_learnt(digits, name):
    """A softmax regression by ten clients, each with few labels; chance is 0.1."""
    x, y = digits
    by_label = torch.argsort(y[:1400], stable=True).split(140)
    shards = [TensorDataset(x[rows], y[rows]) for rows in by_label]
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 10)
    federation = fedsec.Federation(
        model, num_clients=10, num_rounds=20, secure_aggregation=False, strategy=DIGITS[name]
    )
    for rnd in federation.rounds():
        for client in rnd.cohort:
            start, (inputs, targets) = rnd.model(), shards[client].tensors
            local = copy.deepcopy(start)
            optimizer = torch.optim.SGD(local.parameters(), lr=0.5)
            for _ in range(5):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(local(inputs), targets)
                if name == "fedprox":
                    loss = loss + proximal_term(local, start, mu=0.1)
                loss.backward()
                optimizer.step()
            rnd.submit(client, local, weight=len(targets))
        rnd.finish()
    with torch.no_grad():
        accuracy = float((model(x[1400:]).argmax(dim=1) == y[1400:]).double().mean())
    assert accuracy > 0.85


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: FedAvg(0.0), "learning_rate"),
        (lambda: FedAvg(math.nan), "learning_rate"),
        (lambda: FedAvg(1.0, 1.0), "momentum"),
        (lambda: FedAvgM(momentum=-0.1), "momentum"),
        (lambda: FedAdam(tau=0.0), "tau"),
        (lambda: FedAdam(beta1=1.0), "beta1"),
        (lambda: FedYogi(beta2=1.0), "beta2"),
        (lambda: FedAdagrad(learning_rate=-1.0), "learning_rate"),
    ],
)
def test_parameters_are_checked(make, names):
    with pytest.raises(InvalidArgumentError, match=names):
        make()
