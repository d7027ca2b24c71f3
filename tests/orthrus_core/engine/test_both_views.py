"""Rows of both views in one forward: blocks in branches of their sequences, beside the rows they follow."""

import random

import numpy as np
import pytest
import torch

from orthrus_core.attention.rows import Span
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.errors import ConfigError
from tests.small_models import MASK_TOKEN_ID, small_orthrus

PROMPT = 29
ROWS = 7  # verified, from the prompt's last token on
DTYPES = [torch.float32, torch.bfloat16]
TOKENS = random.Random(0).choices(range(MASK_TOKEN_ID), k=PROMPT + ROWS)


def new_runner(model, *, attention="auto", page_size=16) -> ModelRunner:
    """A runner of two sequences, the second as the first but for its beginning; both prefilled."""
    pool = PagePool(1 + 2 * 64 // page_size, page_size)
    pool.shuffle(random.Random(1))
    tables = PageTables(
        pool, num_slots=2, pages_per_sequence=64 // page_size, num_branches=4, cells_per_branch=8
    )
    runner = ModelRunner(model, tables, attention=attention)
    for slot in (0, 1):
        tables.grow(slot, PROMPT + ROWS)
        run(runner, "ar", Span(slot, 0, [slot, *TOKENS[1 : PROMPT - 1]]))
    return runner


def run(runner, view: str, span: Span) -> torch.Tensor:
    rows = runner.lay_out([span], view, token_budget=32)
    return runner.run(rows, view).logits[: len(span.token_ids)].clone()


def verified(slot: int) -> Span:
    return Span(slot, PROMPT - 1, TOKENS[PROMPT - 1 : PROMPT - 1 + ROWS])


def block_at(line: int, point: int, count: int) -> Span:
    position = PROMPT - 1 + point
    return Span(line, position, [TOKENS[position], *[MASK_TOKEN_ID] * (count - 1)])


def run_both(runner, blocks, *, num_ar=16, num_block_rows=32):
    """Logits of both sequences' verified rows, and of blocks (slot, point, rows)."""
    slots, points, counts = (np.array(numbers) for numbers in zip(*blocks, strict=True))
    lines, copies = runner.tables.branch(slots, PROMPT - 1 + points)
    spans = [block_at(*block) for block in zip(lines.tolist(), points.tolist(), counts.tolist(), strict=True)]
    ar = runner.lay_out([verified(0), verified(1)], "ar", token_budget=num_ar)
    drafts = runner.lay_out(spans, "diffusion", token_budget=num_block_rows)
    logits = runner.read_both(ar, runner.forward_both(ar, drafts, copies)).logits
    return logits[: 2 * ROWS].clone(), logits[num_ar : num_ar + sum(counts)].clone()


def test_a_graph_of_both_views_has_room_for_the_copies_of_the_first_forward(monkeypatch):
    tables = PageTables(
        PagePool(9, 16), num_slots=1, pages_per_sequence=4, num_branches=1, cells_per_branch=8
    )
    runner = ModelRunner(small_orthrus(), tables)
    monkeypatch.setattr(ModelRunner, "_has_graphs", property(lambda runner: True))
    monkeypatch.setattr(runner._graphs, "replay", lambda kind, shape, forward: forward())
    monkeypatch.setattr("orthrus_core.engine.runner.compiled", lambda forward: forward)
    runner.compile(["both"], by_layer=False)
    assert runner.is_compiled


def test_a_model_on_another_device_than_the_current_one_is_refused(monkeypatch):
    runner = ModelRunner.__new__(ModelRunner)
    runner.device = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(ConfigError, match=r"current CUDA device, cuda:0, .*set_device\(1\) first"):
        runner._refuse_other_device()
    runner.device = torch.device("cuda:0")
    runner._refuse_other_device()


def draft_forward(model, slot: int, point: int, count: int, **options) -> torch.Tensor:
    """Logits of the same block in a forward of its own, behind AR rows up to its anchor."""
    runner = new_runner(model, **options)
    if point:
        run(runner, "ar", Span(slot, PROMPT - 1, TOKENS[PROMPT - 1 : PROMPT - 1 + point]))
    return run(runner, "diffusion", block_at(slot, point, count))


BLOCKS = [(0, 3, 8), (1, 0, 5), (0, 6, 8), (1, 6, 2)]


@pytest.mark.parametrize("attention", ["native", "plain"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_beside_the_rows_it_follows_says_what_it_says_alone(dtype, attention):
    model = small_orthrus(dtype=dtype)
    _, found = run_both(new_runner(model, attention=attention), BLOCKS)
    expected = torch.cat([draft_forward(model, *block, attention=attention) for block in BLOCKS])
    torch.testing.assert_close(
        found, expected, **({"atol": 3e-2, "rtol": 3e-2} if dtype == torch.bfloat16 else {})
    )
