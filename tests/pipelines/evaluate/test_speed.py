"""Engines behind pipes beside this one; a double stands for their processes."""

import pytest
import torch

import orthrus_core
from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.evaluation.speed import Measured
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.peers import authors, vllm
from pipelines.evaluate.peers.authors import authors_peer
from pipelines.evaluate.peers.vllm import vllm_peer
from pipelines.evaluate.prompts import PromptRow, PromptSet
from pipelines.evaluate.speed import time_load

PROMPTS = PromptSet("sums", tuple(PromptRow(str(n), [5 + n, 6, 7 + n]) for n in range(4)), 4, ())


class FakeProcess:
    """Emits what this engine's AR decoding does, one row wrong, always in two seconds."""

    version = "9.9"

    def __init__(self, name, **launch):
        self.name, self.options = name, launch["options"]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Nothing to end."""

    def system(self, *, in_flight, max_new_tokens, eos_ids):
        assert eos_ids == [2]
        model = orthrus_core.load_model(self.options["model"], needs_head=False, dtype=torch.float32)
        config = EngineConfig(mode="autoregressive", token_budget=16, max_sequences=2, max_context=64)

        def prepare(prompts):
            rows = Engine(model, config).generate(prompts, SamplingParams(max_new_tokens=max_new_tokens))
            outputs = [row.token_ids for row in rows]
            return lambda: Measured([[*outputs[0], 1], *outputs[1:]], 2.0)

        return prepare


@pytest.fixture
def config(model_dir, tmp_path, monkeypatch):
    for module in (vllm, authors):
        monkeypatch.setattr(module, "PeerProcess", FakeProcess)
    (tmp_path / "python").touch()
    return EvaluateConfig.model_validate(
        {
            "model": {"path": str(model_dir), "dtype": "float32", "device": "cpu"},
            "prompt_sets": {"sums": {"path": "x", "column": "prompt"}},
            "decode": {"max_context": 64},
            "sampling": {"max_new_tokens": 8},
            "exactness": None,
            "speed": {"loads": [{"batch": 1, "rows": 4, "systems": ["vllm", "authors"]}], "pause_s": 0},
            "vllm": {"python": str(tmp_path / "python"), "directory": str(tmp_path)},
            "authors": {"path": str(tmp_path)},
            "output": str(tmp_path / "report.json"),
        }
    )


@pytest.fixture
def model(model_dir):
    return orthrus_core.load_model(model_dir, dtype=torch.float32)


def test_a_peer_is_timed_beside_both_modes_and_its_text_compared(config, model, model_dir):
    with (
        vllm_peer(config, model, max_sequences=1) as one,
        authors_peer(config, model, str(model_dir)) as other,
    ):
        load = time_load(config, model, PROMPTS, config.speed.loads[0], {**one, **other})
    equal = {system["name"]: system["rows_as_consensus"] for system in load["systems"]}
    assert equal == {"consensus": 4, "AR": 4, "vLLM 9.9": 3, "the authors' code": 3}
    consensus, ar, peer, _ = load["systems"]
    for ours, ratio in ((consensus, "consensus_ratio"), (ar, "ar_ratio")):
        rates = [tokens / seconds for tokens, seconds in zip(ours["tokens"], ours["seconds"], strict=True)]
        assert peer[ratio]["median"] == pytest.approx(sorted(rates)[1] / (peer["tokens"][0] / 2.0))


def test_an_engine_that_is_not_there_is_left_out(config, model, model_dir):
    absent = config.model_copy(
        update={
            "vllm": config.vllm.model_copy(update={"python": model_dir / "nowhere"}),
            "authors": config.authors.model_copy(update={"path": None}),
        }
    )
    with (
        vllm_peer(absent, model, max_sequences=1) as one,
        authors_peer(absent, model, str(model_dir)) as other,
    ):
        assert (one, other) == ({}, {})
