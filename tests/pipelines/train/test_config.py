from pathlib import Path

import pytest

from orthrus_core.errors import ConfigError
from pipelines.train.config import BackboneTrainConfig, HeadTrainConfig, load_train_config

CONFIGS = Path(__file__).parents[3] / "configs" / "train"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path):
    assert load_train_config(path, []).loop.max_tokens > 0


def test_the_kind_decides_which_keys_there_are(tmp_path):
    path = write(
        tmp_path, "kind: head\nbackbone: b\noutput: {path: o}\ndata: {path: d}\nloop: {max_tokens: 5}\n"
    )
    config = load_train_config(path)
    assert isinstance(config, HeadTrainConfig)
    assert config.head.block_size == 8


def test_settings_of_the_command_line_win():
    config = load_train_config(CONFIGS / "demo-backbone.yaml", ["seed=3", "seed=4", "output.path=x/y"])
    assert isinstance(config, BackboneTrainConfig)
    assert (config.seed, config.output.path) == (4, "x/y")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("kind=tail", "kind must be 'backbone' or 'head', got 'tail'"),
        ("head.block_size=1", "head.block_size must be >= 2, got 1"),
        ("head.blocksize=8", "head.blocksize is not a known key, did you mean block_size?"),
        ("loop.max_tokens", "--set takes key.key=value"),
    ],
)
def test_mistakes_name_key_rule_and_value(setting, message):
    with pytest.raises(ConfigError) as caught:
        load_train_config(CONFIGS / "demo-head.yaml", [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent.yaml"):
        load_train_config(tmp_path / "absent.yaml")
