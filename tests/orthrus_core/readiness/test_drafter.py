"""The trial of a head before and after its model's weights become bytes."""

import logging

import pytest
import torch

import orthrus_core.readiness.drafter as drafter
from orthrus_core.linear.quantised import QuantisedLinear
from orthrus_core.models.head import randomize_diffusion_head
from orthrus_core.models.weights import quantise
from orthrus_core.readiness.device_memory import DeviceMemory
from tests.small_models import small_orthrus

PROMPTS = [[1, 2, 3, 4], [9] * 300]


def on_trial(model, prompts=PROMPTS, **changes):
    options = {"output_head": False, "device": "cpu", "prompts": prompts} | changes
    return drafter.quantise_on_trial(model, "int8", **options)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger=drafter.__name__)
    return caplog


def lines(log) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == drafter.__name__]


def test_a_head_that_drafts_as_before_is_one_line(log):
    model = on_trial(small_orthrus(sameness=1.0))
    assert type(model.model.layers[0].mlp.up_proj) is QuantisedLinear
    [line] = lines(log)
    assert line.startswith("drafts weights=int8 tokens_per_step=")


def test_a_head_that_bytes_kill_is_a_warning(log, monkeypatch):
    def kill(model, weights, *, output_head):
        quantise(model, weights, output_head=output_head)
        for layer in model.model.layers:
            for name in ("q_proj_diff", "v_proj_diff", "o_proj_diff"):
                scale = getattr(layer.self_attn, name).scale
                scale.copy_(scale * torch.linspace(-9, 9, len(scale)))

    monkeypatch.setattr(drafter, "quantise", torch.no_grad()(kill))
    on_trial(small_orthrus(sameness=0.2))
    assert len(lines(log)) == 2
    assert "leave model.weights at auto, or train a head on the quantised" in lines(log)[1]


def test_a_head_that_never_drafted_is_no_warning(log):
    model = small_orthrus()
    randomize_diffusion_head(model, seed=0)
    on_trial(model)
    assert len(lines(log)) == 1


@pytest.mark.parametrize("why", ["no prompts", "no head", "no room"])
def test_without_a_trial_it_is_quantised_all_the_same(log, monkeypatch, why):
    model = small_orthrus()
    model.config.has_head = why != "no head"
    if why == "no room":
        monkeypatch.setattr(drafter, "device_memory", lambda device: DeviceMemory(1000, 1000))
    model = on_trial(model, [] if why == "no prompts" else PROMPTS)
    assert type(model.model.layers[0].mlp.up_proj) is QuantisedLinear
    assert not lines(log)
