import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

import orthrus_core
from orthrus_core.errors import ConfigError, OrthrusError
from orthrus_core.models.attention import DIFFUSION_SUFFIX
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.losses import LossSum
from pipelines.checkpoint.directory import locate
from pipelines.config.model import ModelConfig
from pipelines.train.config import BackboneTrainConfig, load_train_config
from pipelines.train.dry_run import dry_run
from pipelines.train.job import train
from pipelines.train.snapshots import Snapshots
from pipelines.train.token_shards import read_index
from tests.pipelines.conftest import ROOT
from tests.pipelines.s3 import SECRET
from tests.pipelines.train.conftest import TOKENIZER, write_rows

SMALL_BACKBONE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 1,
    "num_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def backbone_config(path: Path, *settings: str) -> BackboneTrainConfig:
    fixed = [
        *(f"backbone.{name}={value}" for name, value in SMALL_BACKBONE.items()),
        f"tokenizer={TOKENIZER}",
        f"output.path={path}",
        "scaling.workers=0",
        "compile=false",
        "data.held_out_documents=4",
        "data.held_out_answers=2",
        "packing.sequences_per_batch=2",
        "loop.max_tokens=1500",
        "loop.save_every_steps=1",
    ]
    return load_train_config(ROOT / "configs/train/demo-backbone.yaml", [*fixed, *settings])


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def die_at_save(monkeypatch, number: int) -> None:
    """Let the process end behind its n-th checkpoint."""
    save, calls = Snapshots.save, []

    def dies(self, step, state):
        saved = save(self, step, state)
        calls.append(step)
        if len(calls) == number:
            raise KeyboardInterrupt
        return saved

    monkeypatch.setattr(Snapshots, "save", dies)


@pytest.fixture(scope="module")
def trained(make_config, tmp_path_factory) -> Path:
    """An undisturbed run."""
    path = tmp_path_factory.mktemp("run") / "head"
    train(make_config(path))
    return path


def test_only_the_head_differs_from_the_backbone(trained, plain_backbone):
    found = weights(trained)
    frozen = AutoModelForCausalLM.from_pretrained(plain_backbone, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(found[name], frozen[name]) for name in found if DIFFUSION_SUFFIX not in name)
    name = "model.layers.0.self_attn.q_proj"
    assert not torch.equal(found[f"{name}{DIFFUSION_SUFFIX}.weight"], found[f"{name}.weight"])


def test_the_result_is_a_checkpoint_with_the_backbone_s_tokenizer(trained, plain_backbone):
    model = orthrus_core.load_model(trained)
    assert (model.config.block_size, model.config.mask_token_id) == (8, 3)
    ours, its = (locate(ModelConfig(path=str(path))) for path in (trained, plain_backbone))
    assert ours.tokenizer_hash == its.tokenizer_hash


def test_a_backbone_without_a_free_id_gets_a_row_for_the_mask_token(make_config, plain_backbone, tmp_path):
    backbone = shutil.copytree(plain_backbone, tmp_path / "backbone")
    settings = json.loads((backbone / "tokenizer_config.json").read_text())
    settings.pop("mask_token")
    (backbone / "tokenizer_config.json").write_text(json.dumps(settings))
    config = make_config(tmp_path / "head", f"backbone={backbone}", "loop.max_tokens=20")
    told = "1024 (a new row of the embedding table)"
    assert dict(dry_run(config))["backbone"] == f"{backbone}, mask token {told}"
    train(config)
    model = orthrus_core.load_model(tmp_path / "head")
    assert (model.config.mask_token_id, model.config.vocab_size) == (1024, 1025)
    assert f"| mask token | {told} |" in (tmp_path / "head" / "README.md").read_text()


def test_the_resolved_config_and_the_figures_lie_beside_the_model(trained, make_config):
    assert load_train_config(trained / "train_config.yaml") == make_config(trained)
    state = json.loads((trained / "training.json").read_text())
    assert state["finished"]
    assert state["tokens"] >= 1800
    assert 1 <= state["history"][-1]["acceptance_length"] <= 9


def test_the_model_card_tells_recipe_data_and_acceptance(trained, plain_backbone):
    card = (trained / "README.md").read_text()
    index = read_index(str(trained / "_run" / "data"))
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == str(plain_backbone)
    assert f"| data fingerprint | `{index.fingerprint}` |" in text
    assert "| rows | 24, of which 0 left out (none) |" in text
    assert f"| tokens in the data | {index.counts.tokens}, {index.counts.completion_tokens} of" in text
    last = json.loads((trained / "training.json").read_text())["history"][-1]
    assert f"| 8 | {last['acceptance_length']:.3f} |" in text
    assert f"| 1 | {last['accepted_at_1']:.3f} |" in text
    assert "slot_decay: 0.9" in text


def test_tensorboard_has_loss_speed_and_acceptance(trained):
    events = EventAccumulator(str(trained / "_run" / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/grad_norm", "train/lr", "train/tokens_per_s"} <= tags
    assert {"held_out/loss", "held_out/acceptance_length", "held_out/accepted_at_1"} <= tags
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == sorted(set(steps))


def test_an_interrupted_run_ends_with_the_same_weights(trained, make_config, tmp_path, monkeypatch):
    for number in (1, 2):
        with monkeypatch.context() as patch:
            die_at_save(patch, number)
            with pytest.raises(KeyboardInterrupt):
                train(make_config(tmp_path / "head"))
        assert not (tmp_path / "head" / "config.json").exists()
    train(make_config(tmp_path / "head"))
    whole, resumed = weights(trained), weights(tmp_path / "head")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    states = [
        Snapshots(str(path / "_run"), keep=2).load_last()[1].trainer for path in (trained, tmp_path / "head")
    ]
    assert all(
        torch.equal(states[0]["parameters"][n], states[1]["parameters"][n]) for n in states[0]["parameters"]
    )


def test_a_run_in_an_object_store_resumes_and_its_model_loads(
    make_config, tmp_path, monkeypatch, s3, trained
):
    url = f"{s3.new_bucket()}/head"
    storage = [f"storage.{name}={value}" for name, value in s3.storage().items()]
    storage.append("loop.save_every_steps=4")
    with monkeypatch.context() as patch:
        die_at_save(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(make_config(url, *storage))
    train(make_config(url, *storage))
    client = s3.client()
    names = {name.split("/", 2)[2]: name for name in client.find(url)}
    assert {"model.safetensors", "config.json", "README.md", "training.json", "train_config.yaml"} <= set(
        names
    )
    assert len([name for name in names if name.endswith("state.pt")]) == 2
    assert any(name.startswith("_run/tensorboard/events") for name in names)
    assert not any(SECRET.encode() in client.cat_file(name) for name in names.values())
    client.get(names["model.safetensors"], str(tmp_path / "model.safetensors"))
    assert all(torch.equal(value, weights(trained)[name]) for name, value in weights(tmp_path).items())
    assert (
        locate(ModelConfig(path=url)).tokenizer_hash == locate(ModelConfig(path=str(trained))).tokenizer_hash
    )


def test_a_finished_run_is_not_repeated(trained, make_config, monkeypatch):
    monkeypatch.setattr("pipelines.train.job.run_here", lambda *_: pytest.fail("trained again"))
    before = json.loads((trained / "training.json").read_text())
    assert train(make_config(trained)).state() == before


def test_a_changed_recipe_is_refused_with_what_differs(trained, make_config):
    with pytest.raises(ConfigError) as caught:
        train(make_config(trained, "head.slot_decay=0.5", "loop.max_tokens=5000"))
    message = str(caught.value)
    assert (
        "holds a run with another recipe: head.slot_decay was 0.9, is 0.5; loop.max_tokens was 1800"
        in message
    )
    assert "output.overwrite=true" in message


def test_other_data_are_another_recipe(trained, make_config, tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", [[1]] * 9, [[4, 2]] * 9)
    with pytest.raises(ConfigError, match="another recipe: data.fingerprint was"):
        train(make_config(trained, f"data.path={tmp_path / 'in'}"))


def test_overwrite_replaces_the_run_of_another_recipe(make_config, tmp_path):
    short = "loop.max_tokens=200"
    train(make_config(tmp_path / "head", short))
    first = weights(tmp_path / "head")
    train(make_config(tmp_path / "head", short, "seed=1", "output.overwrite=true"))
    second = weights(tmp_path / "head")
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert load_train_config(tmp_path / "head" / "train_config.yaml").seed == 1


def test_overwrite_goes_on_with_an_unfinished_run(make_config, tmp_path, monkeypatch, caplog):
    config = make_config(tmp_path / "head", "output.overwrite=true", "loop.max_tokens=800")
    with monkeypatch.context() as patch:
        die_at_save(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    caplog.set_level("INFO")
    train(config)
    assert "resumed checkpoint=" in caplog.text


def test_a_loss_that_is_no_number_stops_with_the_batch_saved(make_config, tmp_path, monkeypatch):
    loss, calls = HeadObjective.loss, []

    def third_is_nan(self, batch):
        calls.append(batch)
        found = loss(self, batch)
        return LossSum(found.total * float("nan"), found.weight) if len(calls) == 3 else found

    monkeypatch.setattr(HeadObjective, "loss", third_is_nan)
    with pytest.raises(OrthrusError) as caught:
        train(make_config(tmp_path / "head"))
    assert not isinstance(caught.value, ConfigError)
    batch = tmp_path / "head" / "_run" / "diverged" / "step-00000003-rank-0.pt"
    assert f"The batch is in {batch}; last good checkpoint: " in str(caught.value)
    assert str(tmp_path / "head" / "_run" / "checkpoints" / "step-00000002") in str(caught.value)
    assert torch.equal(torch.load(batch)["input_ids"], calls[2].input_ids)
    assert not (tmp_path / "head" / "config.json").exists()


def test_a_dry_run_counts_and_writes_nothing(make_config, tmp_path, text):
    lines = dict(dry_run(make_config(tmp_path / "head")))
    assert not list(tmp_path.iterdir())
    assert lines["rows"] == "24, held out 3"
    assert lines["updates"] == "about 8 of up to 256 tokens"
    # q, k, v and o of two layers: 48 x 64, 48 x 32 twice, 64 x 48, and two norms of 16
    assert lines["parameters"].endswith("trained 18,496")


def test_a_backbone_from_scratch_resumes_too(tmp_path, monkeypatch):
    train(backbone_config(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        die_at_save(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(backbone_config(tmp_path / "model"))
    train(backbone_config(tmp_path / "model"))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "model")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.bfloat16
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    state = json.loads((tmp_path / "model" / "training.json").read_text())
    assert 0.0 <= state["history"][-1]["right_answers"] <= 1.0
