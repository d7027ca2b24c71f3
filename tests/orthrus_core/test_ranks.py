"""A rank that is lost ends the others' work."""

import time

import pytest

from orthrus_core import Engine, EngineConfig, EngineError, SamplingParams
from orthrus_core.request import Request
from tests.orthrus_core.rank import load, two_ranks
from tests.small_models import small_orthrus


def test_an_engine_that_loses_a_rank_says_so_and_does_not_hang(tmp_path):
    small_orthrus().save_pretrained(tmp_path / "model")
    with two_ranks(tmp_path) as (ranks, process):
        ranks.tell("load", path=str(tmp_path / "model"), dtype="auto", needs_head=True, fault="")
        model = load(ranks, str(tmp_path / "model"), "auto", needs_head=True)
        engine = Engine(model, EngineConfig(max_context=64, max_sequences=2, self_check=False))
        request = Request([5, 6], SamplingParams(max_new_tokens=32))
        engine.submit(request)
        engine.step()
        process.kill()
        process.wait()
        started_at = time.monotonic()
        with pytest.raises(EngineError, match="rank 0 of 2 has lost another rank"):
            engine.run([request])
        assert time.monotonic() - started_at < 20
