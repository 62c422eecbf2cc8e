"""A step of private training beside a plain one and, where they are installed, peers', on one fixed batch.

Steps of all candidates take turns; what counts is the median of ratios to the plain step of the same turn.
Every step reads its batch from the same data set, runs forward and backward, and lets SGD go on; the private
ones clip each record and add noise to all parameters. Peak memory is what steps add to a fresh process.
"""

from __future__ import annotations

import multiprocessing
import statistics
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from fedsec.accounting import Gaussian, PLDAccountant
from fedsec.clipping import BookKeeper, FlatClipping, clipped_sum
from fedsec.measure.timing import turns
from fedsec.training import attach

Step = Callable[[], None]

_CLIP, _NOISE = 1.0, 1.0
_WORDS = 50257
_LARGE_REPEATS = 3


class _Transformer(nn.Module):
    """An encoder of 4 layers over words, and a classifier of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.encoder(self.words(x)).mean(dim=1))
        return out


class _Block(nn.Module):
    """Attention and two layers, each after a LayerNorm and beside a way around it."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.before_attention, self.before_layers = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.layers = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
        own = self.before_attention(x)
        x = x + self.attention(own, own, own, attn_mask=future, need_weights=False)[0]
        out: torch.Tensor = x + self.layers(self.before_layers(x))
        return out


class _LanguageModel(nn.Module):
    """GPT-2 small with random weights: 12 blocks of 768, and a head that is the embedding of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(_WORDS, 768), nn.Embedding(1024, 768)
        self.blocks = nn.ModuleList(_Block(768, 12) for _ in range(12))
        self.norm, self.head = nn.LayerNorm(768), nn.Linear(768, _WORDS, bias=False)
        nn.init.normal_(self.words.weight, std=0.02)
        self.head.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = self.words(x) + self.places(torch.arange(length))
        for block in self.blocks:
            x = block(x, future)
        out: torch.Tensor = self.head(self.norm(x))
        return out


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )  # fmt: skip


def _small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.MaxPool2d(2, 1),
        nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "MLP 784-256-256-10, 256": (_mlp, (784,), 256),
    "small CNN 26k, 256": (_small_cnn, (1, 28, 28), 256),
    "CNN 421k, 256": (_cnn, (1, 28, 28), 256),
    "Transformer encoder d=128, 4 layers, seq 64, 32": (_Transformer, (64,), 32),
}
_GPT2 = "GPT-2 small, random weights, seq 128, 4"  # without peers
LARGE = {_GPT2: (_LanguageModel, (128,), 4)}


def steps(models: list[str] | None = None, repeats: int = 11, *, memory: bool = True) -> dict[str, Any]:
    """Ratios of a step of each candidate to a plain one, and of its peak memory, for each model.

    Peers, with the `bench` extra: Opacus with hooks and with ghost clipping (or why it refuses a model), and
    `torch.func.vmap` over gradients. fedsec with its exact noise, with continuous noise, and without any.
    """
    names = list(MODELS) if models is None else models
    return {
        "what": "one step on a fixed batch, ratio to a plain step of the same turn, one torch thread",
        "models": {name: _of_model(name, repeats, memory) for name in names},
    }


def _of_model(name: str, repeats: int, memory: bool) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():  # peers' own
            warnings.simplefilter("ignore")
            made, refused = _candidates(name)
            seconds = turns(made, min(repeats, _LARGE_REPEATS) if name in LARGE else repeats)
    finally:
        torch.set_num_threads(threads)
    plain = seconds["plain"]
    return {
        "seconds_plain": statistics.median(plain),
        "ratio": {
            candidate: statistics.median(mine / base for mine, base in zip(taken, plain, strict=True))
            for candidate, taken in seconds.items()
        },
        "memory": _peaks(name, list(made)) if memory else {},
        "refused": refused,
    }


def _candidates(name: str) -> tuple[dict[str, Step], dict[str, str]]:
    """Steps by candidate, and why one is not among them."""
    made: dict[str, Step] = {}
    refused: dict[str, str] = {}
    for candidate, make in _MAKERS.items():
        if candidate.startswith("Opacus") and not find_spec("opacus"):
            continue
        if name in LARGE and not candidate.startswith(("plain", "fedsec")):
            continue
        try:
            step = make(*_setting(name))
            step()
        except Exception as error:
            refused[candidate] = f"{type(error).__name__}: {error}"[:200]
        else:
            made[candidate] = step
    return made, refused


def _setting(name: str) -> tuple[nn.Module, TensorDataset]:
    make, shape, rows = (MODELS | LARGE)[name]
    torch.manual_seed(0)
    if name in LARGE:  # the next word is what is to be said
        words = torch.randint(0, _WORDS, (rows, shape[0] + 1))
        return make(), TensorDataset(words[:, :-1].contiguous(), words[:, 1:].contiguous())
    x = (
        torch.randint(0, 1000, (rows, *shape))
        if len(shape) == 1 and shape[0] < 100
        else torch.randn(rows, *shape)
    )
    return make(), TensorDataset(x, torch.randint(0, 10, (rows,)))


def _read(dataset: TensorDataset) -> tuple[torch.Tensor, ...]:
    batch: tuple[torch.Tensor, ...] = dataset[torch.randperm(len(dataset))]
    return batch


def _losses(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One a record: the mean over its positions where it has several targets."""
    out = model(x)
    if y.dim() == 1:
        return nn.functional.cross_entropy(out, y, reduction="none")
    words = nn.functional.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none")
    return words.view(y.shape).mean(dim=1)


def _plain(model: nn.Module, dataset: TensorDataset) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        x, y = _read(dataset)
        _losses(model, x, y).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def _fedsec(model: nn.Module, dataset: TensorDataset, noise: str) -> Step:
    """A Poisson sample of probability 1 is the fixed batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    privacy = attach(
        model, optimizer, dataset, batch_size=len(dataset), l2_clip_norm=_CLIP, noise_multiplier=_NOISE,
        target_delta=1e-5, steps=10**6, noise=noise,
    )  # fmt: skip

    def epochs() -> Iterator[Any]:
        while True:
            yield from privacy.loader(max_physical_batch_size=len(dataset))

    batches = epochs()

    def micro_batch() -> None:
        x, y = next(batches)
        privacy.backward(_losses(model, x, y))
        optimizer.step()
        optimizer.zero_grad()

    micro_batch()
    while privacy.steps == 0:
        micro_batch()
    return micro_batch


def _clipping(model: nn.Module, dataset: TensorDataset) -> Step:
    """What the clipping alone costs: no draw, no noise."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    keeper, rule = BookKeeper(model), FlatClipping(_CLIP)

    def step() -> None:
        x, y = _read(dataset)
        keeper.begin(len(x))
        keeper.backward(_losses(model, x, y))
        sums = clipped_sum(keeper, keeper.collect(), rule, len(x))
        for name, parameter in keeper.parameters.items():
            parameter.grad = sums[name].to(parameter) / len(x)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _vmap(model: nn.Module, dataset: TensorDataset) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    parameters = dict(model.named_parameters())

    def loss(values: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(model, values, (x.unsqueeze(0),))
        return nn.functional.cross_entropy(out, y.unsqueeze(0))

    gradients_of = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def step() -> None:
        x, y = _read(dataset)
        gradients = gradients_of({name: p.detach() for name, p in parameters.items()}, x, y)
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
        factors = (_CLIP / norms).clamp(max=1.0)
        for name, parameter in parameters.items():
            total = torch.einsum("i,i...->...", factors, gradients[name])
            parameter.grad = (total + _NOISE * _CLIP * torch.randn_like(total)) / len(x)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _opacus(model: nn.Module, dataset: TensorDataset, mode: str) -> Step:
    from opacus import PrivacyEngine
    from opacus.validators import ModuleValidator

    model = ModuleValidator.fix(model)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=1e-3)
    criterion: Any = nn.CrossEntropyLoss()
    made = PrivacyEngine().make_private(
        module=model, optimizer=optimizer, data_loader=torch.utils.data.DataLoader(dataset, len(dataset)),
        criterion=criterion, noise_multiplier=_NOISE, max_grad_norm=_CLIP, poisson_sampling=False,
        grad_sample_mode=mode,
    )  # fmt: skip
    if mode == "ghost":
        model, optimizer, criterion = made[:3]
    else:
        model, optimizer = made[:2]

    def step() -> None:
        x, y = _read(dataset)
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()

    return step


_MAKERS: dict[str, Callable[[nn.Module, TensorDataset], Step]] = {
    "plain": _plain,
    "fedsec": lambda model, dataset: _fedsec(model, dataset, "exact"),
    "fedsec, continuous noise": lambda model, dataset: _fedsec(model, dataset, "continuous"),
    "fedsec, without noise": _clipping,
    "vmap": _vmap,
    "Opacus hooks": lambda model, dataset: _opacus(model, dataset, "hooks"),
    "Opacus ghost": lambda model, dataset: _opacus(model, dataset, "ghost"),
}


def _peaks(name: str, candidates: list[str]) -> dict[str, float]:
    """Peak resident memory that steps add to a process, as ratios to the plain step's."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        grown = {candidate: pool.apply(_grown, (name, candidate)) for candidate in candidates}
    return {candidate: size / grown["plain"] for candidate, size in grown.items()}


def _grown(name: str, candidate: str) -> float:
    torch.set_num_threads(1)
    model, dataset = _setting(name)
    PLDAccountant().compose(Gaussian(1.0)).epsilon(1e-5)  # what an accountant loads is no part of a step
    before = _peak()
    step = _MAKERS[candidate](model, dataset)
    for _ in range(3):
        step()
    return float(max(1, _peak() - before))


def _peak() -> int:
    """The most memory that this process has had, in kB; `ru_maxrss` would count its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    lines = [result["what"]]
    for name, found in result["models"].items():
        lines.append(f"  {name}: plain {1e3 * found['seconds_plain']:.1f} ms")
        for candidate, ratio in found["ratio"].items():
            peak = found["memory"].get(candidate)
            lines.append(f"    {candidate:26} {ratio:6.2f}" + (f", memory {peak:.2f}" if peak else ""))
        lines += [f"    {candidate:26} refused: {why}" for candidate, why in found["refused"].items()]
    return lines
