"""PyTorch Lightning's automatic optimisation, by the recipe of docs/training.md."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import fedsec
from fedsec.errors import ProtocolError

lightning = pytest.importorskip("lightning", reason="lightning is not installed: make test-ecosystem")


def records():
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x[:, :3].argmax(dim=1))


class Classifier(lightning.LightningModule):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.options = {"batch_size": 10, "noise_multiplier": 1.0, "epochs": 3} | options
        self.seen = []

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.privacy = fedsec.attach(
            self.net,
            optimizer,
            records(),
            target_delta=1e-5,
            loss_reduction="mean",
            when_exhausted="stop",
            **self.options,
        )
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda _: 1 - self.privacy.steps / self.privacy.plan.planned_steps
        )
        return [optimizer], [{"scheduler": rate, "interval": "step"}]

    def train_dataloader(self):
        return self.privacy.loader(max_physical_batch_size=8)

    def training_step(self, batch, _index):
        x, y = batch
        return cross_entropy(self.net(x), y)

    def on_before_optimizer_step(self, _optimizer):
        self.seen += [p.grad is None for p in self.net.parameters()]


def trainer(**options):
    """Every epoch has a length of its own."""
    quiet = {
        "reload_dataloaders_every_n_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    return lightning.Trainer(
        accelerator="cpu", enable_model_summary=False, **quiet, **({"max_epochs": 3} | options)
    )


def test_automatic_optimisation_takes_the_planned_steps():
    model = Classifier()
    before = [p.detach().clone() for p in model.net.parameters()]
    trainer(gradient_clip_val=0.5).fit(model)
    assert model.privacy.steps == 18
    assert all(not torch.equal(a, b) for a, b in zip(before, model.net.parameters(), strict=True))
    assert all(model.seen)  # hooks and gradient clipping see no gradient that is not private yet
    assert model.lr_schedulers().optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 18, rel=1.01)
    assert 0 < model.privacy.spent().epsilon == model.privacy.spent().planned_epsilon


def test_no_step_is_taken_beyond_the_plan():
    model = Classifier(epochs=1)
    trainer(max_epochs=4).fit(model)
    assert model.privacy.steps == 6


def test_accumulation_of_the_frameworks_own_is_refused():
    model = Classifier()
    with pytest.raises(ProtocolError, match="was not called on the last micro-batch"):
        trainer(accumulate_grad_batches=3).fit(model)
    assert model.privacy.steps < 18


def test_a_loss_that_mixes_records_is_refused():
    class Mixing(Classifier):
        def training_step(self, batch, _index):
            x, y = batch
            out = self.net(x)
            return cross_entropy(out - out.mean(dim=0), y)

    model = Mixing()
    with pytest.raises(fedsec.errors.UnsupportedError, match="mixes records"):
        trainer().fit(model)
    assert model.privacy.steps == 0
