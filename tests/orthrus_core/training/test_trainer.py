import itertools

import pytest
import torch
from torch.nn import Parameter

from orthrus_core.training.config import LoopConfig, OptimizerConfig
from orthrus_core.training.losses import LossSum
from orthrus_core.training.packing import Document, collate
from orthrus_core.training.trainer import Trainer


class Parabola:
    """Minimises x**2 over any batch; counts its evaluations."""

    def __init__(self):
        self.module = torch.nn.Module()
        self.module.x = self.x = Parameter(torch.tensor([3.0]))
        self.num_evaluations = 0

    def named_parameters(self):
        return [("x", self.x)]

    def loss(self, batch):
        return LossSum((self.x**2).sum() * batch.num_tokens, torch.tensor(float(batch.num_tokens)))

    def evaluate(self, batches):
        self.num_evaluations += 1
        return {"loss": self.x.item() ** 2}


def batches():
    return itertools.repeat(collate([[Document([1], [2, 3, 4])]], sequence_len=6))


def trainer(objective, saved, *, max_tokens=40, clock=None, **loop):
    return Trainer(
        objective,
        optimizer=OptimizerConfig(adamw_lr=0.5, warmup=0.0),
        loop=LoopConfig(max_tokens=max_tokens, **loop),
        held_out=[],
        save=lambda trainer: saved.append(trainer.progress.state()),
        **({"clock": clock} if clock else {}),
    )


def test_a_run_ends_at_its_token_budget_with_a_finished_snapshot():
    objective, saved = Parabola(), []
    progress = trainer(objective, saved).run(batches())
    assert (progress.step, progress.tokens, progress.finished) == (10, 40, True)
    assert saved[-1]["finished"]
    assert saved[-1]["history"][-1]["tokens"] == 40
    assert objective.x.item() ** 2 < 1.0


def test_a_stream_that_ends_early_ends_the_run():
    progress = trainer(Parabola(), []).run(itertools.islice(batches(), 3))
    assert (progress.step, progress.finished) == (3, True)


def test_snapshots_and_evaluations_come_at_their_own_rhythm():
    objective, saved = Parabola(), []
    clock = itertools.count().__next__
    trainer(objective, saved, clock=clock, save_every_s=12, evaluate_every_s=1000, log_every_s=1000).run(
        batches()
    )
    assert 2 <= len(saved) <= 6
    assert [state["finished"] for state in saved] == [False] * (len(saved) - 1) + [True]
    assert objective.num_evaluations == 1


def test_the_log_names_loss_and_tokens_per_second(caplog):
    caplog.set_level("INFO")
    trainer(Parabola(), [], clock=itertools.count().__next__, log_every_s=2).run(batches())
    lines = [record.message for record in caplog.records if record.message.startswith("train ")]
    assert lines
    assert "loss=" in lines[0]
    assert "tokens_per_s=" in lines[0]


def test_settings_out_of_bounds_are_refused():
    with pytest.raises(ValueError, match="max_tokens"):
        LoopConfig(max_tokens=0)
    with pytest.raises(ValueError, match="learning_rate"):
        OptimizerConfig(learning_rate=1.0)
