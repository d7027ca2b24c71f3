import io

import pytest
import torch
from rich.console import Console

import orthrus_core
from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.speed import Measured, Timing
from pipelines.evaluate.prompts import PromptRow, PromptSet
from tests.benchmarks.peers import compare
from tests.benchmarks.peers.compare import compare_with_peers, fastest
from tests.benchmarks.peers.config import PeersBenchmark
from tests.benchmarks.peers.report import render_peers

pytestmark = pytest.mark.slow  # of a benchmark: not part of `make test`

PROMPTS = PromptSet("sums", tuple(PromptRow(str(n), [5 + n, 6, 7 + n]) for n in range(4)), 4, ())


class FakeProcess:
    """Emits what this engine's AR decoding does, one row wrong, always in two seconds."""

    started: list = []

    def __init__(self, name, **launch):
        self.name, self.launch, self.is_open = name, launch, True
        self.version, self.load_s, self.idle_s, self.idle_cpu_s = "9.9", 1.5, 20.0, 0.1
        self.asked = []
        FakeProcess.started.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.is_open = False

    def system(self, *, in_flight, max_new_tokens, eos_ids):
        self.asked.append((in_flight, max_new_tokens, eos_ids))
        model = orthrus_core.load_model(self.launch["options"]["model"], needs_head=False)
        config = EngineConfig(mode="autoregressive", token_budget=16, max_sequences=2, max_context=64)

        def prepare(prompts):
            rows = Engine(model, config).generate(prompts, SamplingParams(max_new_tokens=max_new_tokens))
            outputs = [row.token_ids for row in rows]
            return lambda: Measured([[*outputs[0], 1], *outputs[1:]], 2.0)

        return prepare


@pytest.fixture
def tree(model_dir, tmp_path):
    (tmp_path / "python").touch()
    return {
        "model": {"path": str(model_dir), "dtype": "float32", "device": "cpu"},
        "prompt_sets": {"sums": {"path": "x", "column": "prompt"}},
        "decode": {"max_context": 64},
        "sampling": {"max_new_tokens": 8},
        "exactness": None,
        "peers": {
            "prompt_set": "sums",
            "vllm": {"python": str(tmp_path / "python"), "max_context": 32},
            "loads": [{"batch": 1, "rows": 2, "systems": []}, {"batch": 2, "rows": 4, "systems": []}],
            "rounds": 2,
            "pause_s": 0,
            "directory": str(tmp_path / "peers"),
        },
        "output": str(tmp_path / "report.json"),
    }


def compared(tree, model_dir, monkeypatch):
    monkeypatch.setattr(compare, "PeerProcess", FakeProcess)
    monkeypatch.setattr(FakeProcess, "started", [])
    model = orthrus_core.load_model(model_dir, dtype=torch.float32)
    config = PeersBenchmark.model_validate(tree)
    return compare_with_peers(config, model, str(model_dir), PROMPTS), FakeProcess.started


def test_every_peer_is_timed_beside_both_modes_and_its_text_compared(tree, model_dir, monkeypatch):
    report, _ = compared(tree, model_dir, monkeypatch)
    names = [[system["name"] for system in load["systems"]] for load in report["loads"]]
    assert names == [
        ["consensus", "AR", "vLLM, compiled", "vLLM, eager"],
        ["consensus", "AR", "vLLM, compiled", "vLLM, eager"],
    ]
    for load in report["loads"]:
        equal = {system["name"]: system["rows_as_consensus"] for system in load["systems"]}
        assert equal["AR"] == load["rows"]
        assert equal["vLLM, compiled"] == load["rows"] - 1


def test_ratios_are_rates_of_this_engine_over_those_of_the_peer(tree, model_dir, monkeypatch):
    report, _ = compared(tree, model_dir, monkeypatch)
    consensus, ar, peer, _ = report["loads"][0]["systems"]
    assert peer["seconds"] == [2.0, 2.0]
    for ours, ratio in ((consensus, "consensus_ratio"), (ar, "ar_ratio")):
        rates = [tokens / seconds for tokens, seconds in zip(ours["tokens"], ours["seconds"], strict=True)]
        expected = sum(rates) / 2 / (peer["tokens"][0] / 2.0)
        assert peer[ratio]["median"] == pytest.approx(expected)


def test_peers_get_the_job_s_limits_and_the_model_s_eos_and_are_ended(tree, model_dir, monkeypatch):
    _, started = compared(tree, model_dir, monkeypatch)
    for process in started:
        assert process.asked == [(1, 8, [2]), (2, 8, [2])]
        assert not process.is_open


def test_vllm_s_variants_differ_in_compilation_alone(tree, model_dir, monkeypatch):
    _, (compiled, eager) = compared(tree, model_dir, monkeypatch)
    options, others = compiled.launch["options"], eager.launch["options"]
    assert (options.pop("compiled"), others.pop("compiled")) == (True, False)
    assert options == others
    assert (options["max_context"], options["max_sequences"]) == (32, 2)
    assert compiled.launch["environment"] == eager.launch["environment"]


def test_variables_of_the_config_go_before_our_own(tree, model_dir, monkeypatch):
    tree["peers"]["vllm"]["variants"] = {"big": {"environment": {"VLLM_CPU_KVCACHE_SPACE": "4"}}}
    _, [process] = compared(tree, model_dir, monkeypatch)
    assert process.launch["environment"]["VLLM_CPU_KVCACHE_SPACE"] == "4"


def test_a_variant_may_have_threads_of_its_own_and_intel_openmp(tree, model_dir, monkeypatch, tmp_path):
    tree["peers"]["vllm"] |= {
        "python": str(tmp_path / "env" / "bin" / "python"),
        "variants": {"3 threads, preloaded": {"threads": 3, "intel_openmp": True}},
    }
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").touch()
    _, [process] = compared(tree, model_dir, monkeypatch)
    assert process.launch["environment"]["OMP_NUM_THREADS"] == "3"
    assert process.launch["environment"]["LD_PRELOAD"] == str(tmp_path / "env" / "lib" / "libiomp5.so")
    assert process.launch["log"].name == "vllm-3-threads-preloaded.log"


def test_vllm_runs_in_the_models_dtype_and_transformers_where_a_load_names_it(tree, model_dir, monkeypatch):
    monkeypatch.setattr(compare, "PeerProcess", FakeProcess)
    monkeypatch.setattr(FakeProcess, "started", [])
    tree["peers"]["loads"] = [{"batch": 1, "rows": 2, "systems": ["transformers"]}]
    model = orthrus_core.load_model(model_dir, dtype=torch.bfloat16)
    report = compare_with_peers(PeersBenchmark.model_validate(tree), model, str(model_dir), PROMPTS)
    assert [process.launch["options"]["dtype"] for process in FakeProcess.started] == ["bfloat16"] * 2
    assert report["dtype"] == "bfloat16"
    assert "transformers generate" in [system["name"] for system in report["loads"][0]["systems"]]


def test_the_authors_code_is_timed_with_one_sequence_only(tree, model_dir, monkeypatch, tmp_path):
    tree["peers"] |= {"vllm": None, "authors": {"path": str(tmp_path)}}
    report, [process] = compared(tree, model_dir, monkeypatch)
    assert process.launch["options"]["path"] == str(tmp_path)
    assert [[s["name"] for s in load["systems"]][-1] for load in report["loads"]] == [
        "the authors' code",
        "AR",
    ]
    assert report["left_out"] == []


def test_what_is_left_out_is_said(tree, model_dir, monkeypatch):
    report, _ = compared(tree, model_dir, monkeypatch)
    assert report["left_out"] == ["the authors' code: set peers.authors.path to a checkout"]


def test_vllm_that_is_not_installed_is_a_mistake_with_its_repair(tree, model_dir, monkeypatch):
    tree["peers"]["vllm"]["python"] = "/nowhere/python"
    with pytest.raises(ConfigError, match=r"no /nowhere/python; `make bench-peers` installs it"):
        compared(tree, model_dir, monkeypatch)


def test_prompts_too_long_for_vllm_are_left_out(tree, model_dir, monkeypatch):
    tree["peers"]["vllm"]["max_context"] = 10
    with pytest.raises(ConfigError, match="peers.vllm.max_context must leave room for a prompt of sums"):
        compared(tree, model_dir, monkeypatch)


def test_the_fastest_is_the_one_with_the_highest_median_rate():
    timings = {
        "consensus": Timing((1.0,), (90,), []),
        "AR": Timing((1.0,), (10,), []),
        "vLLM, eager": Timing((1.0,), (80,), []),
    }
    assert fastest(timings, {"AR", "vLLM, eager", "vLLM, compiled"}) == "vLLM, eager"
    assert fastest(timings, {"vLLM, compiled"}) is None


def test_the_terminal_shows_ratios_texts_and_rest(tree, model_dir, monkeypatch):
    report, _ = compared(tree, model_dir, monkeypatch)
    console = Console(width=130, record=True, file=io.StringIO())
    console.print(render_peers(report))
    text = console.export_text()
    for part in ("1 in flight, 2 requests", "3 of 4", "consensus / this", "AR / this"):
        assert part in text
    assert text.count("* vLLM") == 2
    assert "vLLM, eager: 9.9, loaded in 2 s, 0.5 % of a core while the others worked" in text
    assert "not timed: the authors' code" in text
