import itertools

import pytest
import torch
from torch.nn import Parameter

from orthrus_core.training.config import HeadConfig, LoopConfig, OptimizerConfig
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.losses import LossSum
from orthrus_core.training.packing import Document, collate
from orthrus_core.training.trainer import Trainer, TrainingDiverged
from tests.small_models import small_orthrus


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


def test_saves_and_evaluations_also_come_by_steps():
    objective, saved = Parabola(), []
    trainer(
        objective, saved, save_every_steps=4, evaluate_every_steps=3, save_every_s=1e9, evaluate_every_s=1e9
    ).run(batches())
    assert [state["step"] for state in saved] == [4, 8, 10]
    assert [figures["step"] for figures in saved[-1]["history"]] == [3, 6, 9, 10]


def test_reports_carry_the_figures_of_the_log_and_of_evaluations():
    reports = []
    run = Trainer(
        Parabola(),
        optimizer=OptimizerConfig(adamw_lr=0.5, warmup=0.0, max_grad_norm=100.0),
        loop=LoopConfig(max_tokens=8, log_every_s=1),
        held_out=[],
        save=lambda trainer: None,
        report=lambda kind, step, figures: reports.append((kind, step, dict(figures))),
        clock=itertools.count(step=10).__next__,
    )
    run.run(batches())
    assert [(kind, step) for kind, step, _ in reports] == [("train", 1), ("train", 2), ("held_out", 2)]
    first = reports[0][2]
    # x**2 at 3: loss 9, gradient 6
    assert (first["loss"], first["grad_norm"], first["tokens"]) == (pytest.approx(9), pytest.approx(6), 4)
    assert set(first) == {"loss", "grad_norm", "lr", "tokens_per_s", "tokens", "seconds"}


def test_a_step_takes_as_many_batches_as_it_accumulates_and_the_rest_at_the_end():
    stream = itertools.islice(batches(), 5)
    progress = trainer(Parabola(), [], accumulate=2).run(stream)
    assert (progress.step, progress.tokens) == (3, 20)


def test_a_batch_without_documents_does_not_end_the_run():
    empty = collate([[]], sequence_len=6)
    progress = trainer(Parabola(), []).run(iter([empty, next(batches())]))
    assert (progress.step, progress.tokens) == (2, 4)


def test_no_batch_is_taken_before_it_is_needed():
    stream, positions = Counted(), []
    run = trainer(Parabola(), [], accumulate=3, save_every_steps=1)
    run._save = lambda trainer: positions.append((trainer.progress.step, stream.taken))
    run.run(stream)
    assert positions == [(1, 3), (2, 6), (3, 9), (4, 12)]


class Counted:
    """The batches, counted."""

    def __init__(self):
        self.taken, self.source = 0, batches()

    def __iter__(self):
        return self

    def __next__(self):
        self.taken += 1
        return next(self.source)


HEAD = HeadConfig(block_size=3, anchors_per_sequence=16)  # every token that can be an anchor is one
ROWS = [
    [Document([5, 6], [8, 9, 10, 11])],
    [Document([7], [12, 13, 14, 15, 16, 17, 18])],
    [Document([3], [4, 5])],
]


def test_accumulated_batches_update_as_one_large_batch():
    # rows of different lengths: a mean of the batches' means would be another gradient
    weights, one_by_one = [], [collate([row], sequence_len=9) for row in ROWS]
    for accumulate, parts in ((1, [collate(ROWS, sequence_len=9)]), (3, one_by_one)):
        objective = HeadObjective(small_orthrus(noise=0.05), HEAD, precision="float32", seed=0)
        run = Trainer(
            objective,
            optimizer=OptimizerConfig(kind="adamw", adamw_lr=1e-3, warmup=0.0),
            loop=LoopConfig(max_tokens=17 * 4, accumulate=accumulate, precision="float32"),
            held_out=parts,
            save=lambda trainer: None,
        )
        before = run.state_dict()["parameters"]
        run.run(iter(parts * 2))
        weights.append(run.state_dict()["parameters"])
    for name, first in weights[0].items():
        moved = (first - before[name]).norm()
        assert (weights[1][name] - first).norm() < 1e-3 * moved, name


class Diverging(Parabola):
    """Its loss, or only its gradient, is no number at one call."""

    def __init__(self, at: int, *, gradient_only: bool = False):
        super().__init__()
        self.num_calls, self.at, self.gradient_only = 0, at, gradient_only

    def loss(self, batch):
        self.num_calls += 1
        loss = super().loss(batch)
        if self.num_calls != self.at:
            return loss
        if self.gradient_only:  # the square root of 0 is 0, its slope infinite
            return LossSum(loss.total + (self.x - self.x.detach()).sqrt().sum(), loss.weight)
        return LossSum(loss.total * float("nan"), loss.weight)


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_step_without_numbers_stops_the_run_and_updates_nothing(gradient_only):
    objective, saved = Diverging(5, gradient_only=gradient_only), []
    run = trainer(objective, saved, accumulate=2, save_every_steps=1)
    run._save = lambda trainer: saved.append((trainer.progress.step, objective.x.item()))
    with pytest.raises(TrainingDiverged, match="diverged at step 3: loss ") as caught:
        run.run(batches())
    assert saved == [(1, saved[0][1]), (2, objective.x.item())]
    assert run.progress.step == 2
    # with a bad loss the one batch, with a bad gradient alone both of the step
    assert caught.value.batch.input_ids.shape == (2 if gradient_only else 1, 6)
    assert (caught.value.step, caught.value.is_here) == (3, True)
