"""Layers that are alike run by one graph, each with its own weights and pages."""

import pytest
import torch

from orthrus_core.attention.rows import Span
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.compilation import by_layer
from orthrus_core.compilation.by_layer import signature
from orthrus_core.engine.runner import KINDS, ModelRunner
from tests.small_models import small_orthrus

SPANS = [Span(0, 0, [5, 6, 7, 8]), Span(1, 0, [9, 3])]


def new_runner(model):
    own = {"pages_per_sequence": 2, "num_branches": 2, "cells_per_branch": 8}
    tables = PageTables(PagePool(10, 16), num_slots=2, **own)
    for slot in (0, 1):
        tables.grow(slot, 8)
    return ModelRunner(model, tables)


def test_layers_that_differ_in_a_setting_have_another_graph():
    first, second = small_orthrus().model.layers[:2]
    assert signature(first) == signature(second)
    second.self_attn.scaling *= 2
    assert signature(first) != signature(second)


def test_every_layer_runs_with_its_own_weights_and_pages(monkeypatch):
    graphs = []
    monkeypatch.setattr(by_layer, "compiled", lambda function: graphs.append(function) or function)
    monkeypatch.setattr("orthrus_core.engine.runner.compiled", lambda function: function)
    model = small_orthrus()
    runner, eager = new_runner(model), new_runner(model)
    runner.compile(("ar", "diffusion"), by_layer=True)
    assert graphs
    for kind in ("ar", "diffusion"):
        states = [
            one.forward(one.lay_out(SPANS, kind, token_budget=8), kind).states for one in (runner, eager)
        ]
        assert torch.equal(*states)
    pages = ([*runner.cache.keys, *runner.cache.values], [*eager.cache.keys, *eager.cache.values])
    assert all(torch.equal(own[1:], theirs[1:]) for own, theirs in zip(*pages, strict=True))


@pytest.mark.slow
def test_compiled_layers_say_what_eager_ones_say():
    model = small_orthrus()
    runner, eager = new_runner(model), new_runner(model)
    runner.compile(KINDS, by_layer=True)
    for T in (8, 11):
        for kind in ("ar", "diffusion"):
            states = [
                one.forward(one.lay_out(SPANS, kind, token_budget=T), kind).states[:6]
                for one in (runner, eager)
            ]
            torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)
