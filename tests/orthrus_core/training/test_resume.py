"""An interrupted run goes on as if it had not been interrupted."""

import itertools
import json
import random

import pytest
import torch

from orthrus_core.errors import OrthrusError
from orthrus_core.training.config import HeadConfig, LoopConfig, OptimizerConfig
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.packing import Document, collate
from orthrus_core.training.trainer import Trainer
from tests.small_models import small_orthrus

HEAD = HeadConfig(block_size=4, anchors_per_sequence=3, shorten_probability=0.5)
NUM_STEPS, ACCUMULATE = 20, 2


class Epochs:
    """Seven batches again and again, in a new order each time."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        epoch, place = divmod(self.position, 7)
        self.position += 1
        number = random.Random(epoch).sample(range(7), 7)[place]
        first = 5 + 9 * number
        return collate([[Document([first, 3], list(range(first, first + 5 + number)))]], sequence_len=16)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def trainer(kind: str, *, saved: list, stop_at: int | None = None, clock=None) -> Trainer:
    """A run of 20 steps that is saved, and can be killed, after a step."""

    def save(trainer: Trainer) -> None:
        saved.append((trainer.progress.step, trainer.state_dict()))
        if trainer.progress.step == stop_at:
            raise KeyboardInterrupt

    tokens_per_epoch = sum(7 + number for number in range(7))
    return Trainer(
        HeadObjective(small_orthrus(noise=0.0), HEAD, precision="float32", seed=5),
        optimizer=OptimizerConfig(kind=kind, muon_lr=2e-2, adamw_lr=4e-3, warmup=0.2, decay="cosine"),
        loop=LoopConfig(
            max_tokens=tokens_per_epoch * NUM_STEPS * ACCUMULATE // 7,
            accumulate=ACCUMULATE,
            precision="float32",
            save_every_steps=10,
            save_every_s=1e9,
            evaluate_every_steps=6,
        ),
        held_out=[next(Epochs())],
        save=save,
        **({"clock": clock} if clock else {}),
    )


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_an_interrupted_run_ends_with_the_same_bits(kind, tmp_path):
    whole: list = []
    trainer(kind, saved=whole).run(Epochs())
    path, parts, stream = tmp_path / "state.pt", [], Epochs()
    with pytest.raises(KeyboardInterrupt):
        trainer(kind, saved=parts, stop_at=10).run(stream)
    torch.save(parts[-1][1], path)
    position = json.loads(json.dumps(stream.state_dict()))

    resumed, stream = trainer(kind, saved=parts), Epochs()
    resumed.load_state_dict(torch.load(path))
    stream.load_state_dict(position)
    resumed.run(stream)
    (steps, expected), (steps_resumed, state) = whole[-1], parts[-1]
    assert steps_resumed == steps >= NUM_STEPS
    assert all(
        torch.equal(state["parameters"][name], value) for name, value in expected["parameters"].items()
    )
    assert state["progress"]["history"] == expected["progress"]["history"]
    for name, values in expected["optimizer"].items():
        assert all(torch.equal(state["optimizer"][name][key], value) for key, value in values.items()), name


def test_a_resume_without_the_objectives_state_would_show():
    # the test above would not see a lost generator if anchors did not matter
    saved: list = []
    trainer("adamw", saved=saved).run(Epochs())
    other = trainer("adamw", saved=saved)
    other._objective._generator.manual_seed(6)
    other.run(Epochs())
    first, second = (state["parameters"] for step, state in saved if step == 10)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_state_holds_fp32_weights_of_the_head_alone():
    run = trainer("muon", saved=[])
    state = run.state_dict()
    assert state["parameters"].keys() == dict(run._objective.named_parameters()).keys()
    assert {value.dtype for value in state["parameters"].values()} == {torch.float32}


def test_a_state_does_not_change_when_training_goes_on():
    saved: list = []
    trainer("muon", saved=saved).run(Epochs())
    name = next(iter(saved[0][1]["parameters"]))
    assert not torch.equal(saved[0][1]["parameters"][name], saved[-1][1]["parameters"][name])


def test_seconds_go_on_where_the_interrupted_run_was():
    saved: list = []
    with pytest.raises(KeyboardInterrupt):
        trainer("adamw", saved=saved, stop_at=10, clock=itertools.count().__next__).run(Epochs())
    before = saved[-1][1]["progress"]["seconds"]
    resumed = trainer("adamw", saved=saved, clock=itertools.count(10**6).__next__)
    resumed.load_state_dict(saved[-1][1])
    after = resumed.run(Epochs()).seconds
    assert before < after < 3 * before


def test_a_finished_run_that_is_resumed_does_nothing():
    saved: list = []
    trainer("adamw", saved=saved).run(Epochs())
    state = saved[-1][1]
    again = trainer("adamw", saved=(later := []))
    again.load_state_dict(state)
    assert again.run(Epochs()).state() == state["progress"] | {"seconds": again.progress.state()["seconds"]}
    assert later == []


def test_the_state_of_another_model_is_refused():
    run = trainer("adamw", saved=[])
    state = run.state_dict()
    state["parameters"]["model.surplus"] = state["parameters"].popitem()[1]
    with pytest.raises(OrthrusError, match="another model: model\\."):
        run.load_state_dict(state)
