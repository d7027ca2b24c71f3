import json
from pathlib import Path

import pytest
import yaml

from pipelines.command.config_file import load_config
from tests.benchmarks.peers import compare
from tests.benchmarks.peers.__main__ import main
from tests.benchmarks.peers.config import PeersBenchmark
from tests.benchmarks.peers.test_compare import FakeProcess, tree  # noqa: F401

SHIPPED = Path(__file__).with_name("peers.yaml")


@pytest.fixture
def file(tree, tmp_path):  # noqa: F811
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Add 1 and 2."}\n' * 4)
    tree["prompt_sets"]["sums"]["path"] = str(tmp_path / "prompts.jsonl")
    tree["decode"]["max_context"] = tree["peers"]["vllm"]["max_context"] = 96
    (tmp_path / "peers.yaml").write_text(yaml.safe_dump(tree))
    return str(tmp_path / "peers.yaml")


@pytest.mark.parametrize(("name", "prompt_set"), [("peers.yaml", "demo"), ("real.yaml", "gsm8k")])
def test_the_shipped_configs_load_with_the_option_of_the_makefile(name, prompt_set):
    config = load_config(PeersBenchmark, str(SHIPPED.with_name(name)), ["peers.authors.path=there"])
    assert (config.peers.prompt_set, str(config.peers.authors.path)) == (prompt_set, "there")


@pytest.mark.slow
def test_the_report_is_an_evaluations_with_the_peers_in_it(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "PeerProcess", FakeProcess)
    assert main(["--config", file]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [load["batch"] for load in report["peers"]["loads"]] == [1, 2]
    assert report["prompt_sets"]["sums"]["rows"] == 4
    shown = capsys.readouterr().out
    assert "Against other engines, float32, greedy" in shown
    assert f"Everything measured: {tmp_path}" in shown.replace("\n", "")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("peers.prompt_set=poems", "peers names the prompt set 'poems', which is none of sums"),
        ("sampling.temperature=0.5", "needs sampling.temperature 0, got 0.5"),
        ("sampling.ignore_eos=true", "needs sampling without ignore_eos"),
        ("peers.vllm=null", "must have vllm or authors.path, got neither"),
    ],
)
def test_what_peers_cannot_do_is_a_mistake_in_the_config(option, said, file, capsys):
    assert main(["--config", file, "--set", option]) == 2
    assert said in capsys.readouterr().err
