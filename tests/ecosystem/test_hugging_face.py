"""Hugging Face's Trainer, by the recipe of docs/training.md: tiny models from a configuration, no hub."""

import pytest
import torch
from torch.utils.data import Dataset

import fedsec
from fedsec.errors import ProtocolError

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: make test-ecosystem"
)
pytest.importorskip("accelerate", reason="accelerate is not installed: make test-ecosystem")

TINY = {"vocab_size": 30, "num_labels": 2}


def bert():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(max_position_embeddings=12, **sizes, **TINY)
    return transformers.BertForSequenceClassification(config)


def gpt2():
    config = transformers.GPT2Config(n_positions=12, n_embd=16, n_layer=1, n_head=2, pad_token_id=0, **TINY)
    return transformers.GPT2ForSequenceClassification(config)


class Words(Dataset):
    """Sentences of eight words, and whether the first is one of the earlier half."""

    def __len__(self):
        return 60

    def __getitem__(self, i):
        words = torch.randint(1, 30, (8,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": int(words[0] < 15)}


class PrivateTrainer(transformers.Trainer):
    privacy = None
    seen = ()

    def get_train_dataloader(self):
        return self.privacy.loader(max_physical_batch_size=8, collate_fn=self.data_collator)

    def training_step(self, *arguments, **keywords):
        loss = super().training_step(*arguments, **keywords)
        self.seen = (*self.seen, all(p.grad is None for p in self.model.parameters()))
        return loss


def private_trainer(make, folder, *, plan=None, **options):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    terms = {"batch_size": 10, "noise_multiplier": 1.0, "target_delta": 1e-5, "epochs": 3} | (plan or {})
    privacy = fedsec.attach(model, optimizer, Words(), loss_reduction="mean", when_exhausted="stop", **terms)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda _: 1 - privacy.steps / privacy.plan.planned_steps
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=10**6,  # the plan ends before
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    trainer = PrivateTrainer(model=model, args=arguments, train_dataset=Words(), optimizers=(optimizer, rate))
    trainer.privacy = privacy
    return trainer


@pytest.mark.parametrize("make", [bert, gpt2])
def test_the_trainer_takes_the_planned_steps(make, tmp_path):
    trainer = private_trainer(make, tmp_path, max_grad_norm=1e-9)  # of what is not private yet: of nothing
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.privacy.steps == 18
    assert all(trainer.seen)
    moved = [name for name, p in trainer.model.named_parameters() if (p - before[name]).abs().max() > 1e-3]
    assert moved == list(before)
    assert 0 < trainer.privacy.spent().epsilon == trainer.privacy.spent().planned_epsilon


def test_accumulation_of_the_trainers_own_is_refused(tmp_path):
    trainer = private_trainer(bert, tmp_path, gradient_accumulation_steps=2)
    with pytest.raises(ProtocolError):
        trainer.train()
    assert trainer.privacy.steps < 18
