from pathlib import Path

import pytest

from orthrus_core.errors import ConfigError
from pipelines.command.config_file import load_config
from pipelines.evaluate.config import EvaluateConfig, generate_config

CONFIGS = Path(__file__).parents[3] / "configs" / "evaluate"
DEMO = CONFIGS / "demo.yaml"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path):
    assert load_config(EvaluateConfig, path).prompt_sets


def test_the_command_line_adds_a_prompt_set():
    settings = ["prompt_sets.gsm8k.path=test.jsonl", "prompt_sets.gsm8k.column=question"]
    config = load_config(EvaluateConfig, DEMO, [*settings, "prompt_sets.gsm8k.rows=20"])
    assert list(config.prompt_sets) == ["demo", "gsm8k"]
    assert (config.prompt_sets["gsm8k"].column, config.prompt_sets["gsm8k"].rows) == ("question", 20)
    assert config.timed_sets == ("demo", "gsm8k")


def test_sections_can_be_switched_off():
    config = load_config(EvaluateConfig, DEMO, ["speed=null", "replay=null", "memory=null"])
    assert (config.speed, config.replay, config.memory) == (None, None, None)
    assert config.timed_sets == ()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prompt_sets.mine.path=x", "prompt_sets.mine must have exactly one of column and template, got nei"),
        ("prompt_sets.demo.template=x", "must have exactly one of column and template, got both"),
        ("prompt_sets.demo.score=maths", "prompt_sets.demo.score must be 'demo', 'math' or 'code', got"),
        ("prompt_sets.demo.rows=0", "prompt_sets.demo.rows must be >= 1, got 0"),
        ("prompt_sets={'two words': {path: x, column: y}}", "prompt_sets names must be letters"),
        ("decode.mode=consensus", "decode must have no mode, since both modes are run"),
        ("exactness.dtypes=[float31]", "exactness.dtypes[0] must be 'float32', 'bfloat16' or 'float16', got"),
        ("exactness.batches=[0]", "exactness.batches[0] must be > 0, got 0"),
        ("exactness.temperatures=[-1]", "exactness.temperatures[0] must be >= 0.0, got -1"),
        ("exactness={itself: [vllm], batches: [4]}", "exactness itself needs two batches, got [4]"),
        ("rows=0", "rows must be >= 1, got 0"),
        ("speed.prompt_sets=[other]", "speed names the prompt set 'other', which is none of demo"),
        ("sampling.stop=[x]", "sampling stop must be empty, since tokens are compared, got ['x']"),
        ("sampling.ignore_eos=true", "speed needs sampling without ignore_eos"),
        ("sampling.temperature=0.5", "speed needs sampling.temperature 0, got 0.5"),
        (
            "speed.loads=[{batch: 8, rows: 1, token_budget: 4}]",
            "speed.loads[0] token_budget must be >= batch (8), got 4",
        ),
        (
            "speed.loads=[{batch: 2, rows: 1, systems: [prompt_lookup]}]",
            "speed.loads[0] systems: prompt_lookup takes one sequence, batch is 2",
        ),
        (
            "replay.acceptance={tokens_per_step: 10}",
            "replay acceptance: tokens per step must be between 1 and 9, got 10.0",
        ),
        ("replay.acceptance={tokens_per_step: 3, conditional: [0.5]}", "must have exactly one of"),
        ("replay.acceptance={accepted_by_position: [1]}", "drafted_by_position together"),
        ("memory.prompt_set=other", "memory names the prompt set 'other', which is none of demo"),
        ("sped=null", "sped is not a known key, did you mean speed?"),
    ],
)
def test_mistakes_name_key_rule_and_value(setting, message):
    with pytest.raises(ConfigError) as caught:
        load_config(EvaluateConfig, DEMO, [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("acceptance", "survival"),
    [
        ("conditional: [0.5, 0.25]", (0.5, 0.125)),
        ("accepted_by_position: [5, 2], drafted_by_position: [10, 10]", (0.5, 0.2)),
        ("tokens_per_step: 9", (1.0,) * 8),
    ],
)
def test_acceptance_can_be_described_in_three_ways(acceptance, survival):
    config = load_config(EvaluateConfig, DEMO, [f"replay.acceptance={{{acceptance}}}"])
    assert config.replay.acceptance.curve(8).survival == pytest.approx(survival)


def test_the_prompts_of_a_set_are_those_of_a_generate_job():
    config = load_config(
        EvaluateConfig, DEMO, ["prompt_sets.other={path: x, template: '{{ a }}', chat: false}"]
    )
    demo, other = (generate_config(config, name).input for name in ("demo", "other"))
    assert (demo.prompt.column, demo.id_column, demo.prompt.chat) == ("prompt", "id", True)
    assert (other.paths, other.prompt.template, other.prompt.chat) == (("x",), "{{ a }}", False)
