"""Grammars and edits of logits: refused before anything starts, obeyed by what the actor writes."""

import asyncio
import json
import re
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from orthrus_core.errors import ConfigError
from pipelines.checkpoint.directory import load_tokenizer, locate
from pipelines.cluster.failures import FailureNotes
from pipelines.command.config_file import load_config
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.config.sampling import SamplingConfig
from pipelines.generate.decode.actor import GenerateActor
from pipelines.generate.decode.spec import ActorSpec
from pipelines.generate.decode.texts import needs_text
from pipelines.generate.job.preview import preview
from pipelines.read.columns import TableLayout
from tests.pipelines.conftest import job_of
from tests.pipelines.unit_tables import unit

DEMO_MODEL = Path(__file__).parents[4] / "pipelines/demo/model"
SCHEMA = {
    "type": "object",
    "properties": {
        "answer": {"type": "integer", "minimum": 0, "maximum": 999},
        "unit": {"enum": ["apples", "years", "none"]},
    },
    "required": ["answer", "unit"],
    "additionalProperties": False,
}


def with_sampling(tree, **options):
    return tree | {"sampling": tree["sampling"] | options}


def refusal(tree, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        job_of(with_sampling(tree, **options))
    return str(caught.value)


def test_a_grammar_is_refused_before_anything_starts(tree):
    assert refusal(tree, json_schema={"not": {}}) == (
        'sampling.json_schema is refused: Unimplemented keys: ["not"]'
    )
    assert refusal(tree, regex="[a").startswith('sampling.regex is refused: invalid regex "[a"')
    assert "sampling.regex goes with stop ids that are special" in refusal(
        tree, regex="a", stop_token_ids=[9]
    )


def test_edits_that_cannot_be_had_are_refused_before_anything_starts(tree):
    assert refusal(tree, logit_bias={5000: 1.0}) == (
        "sampling.logit_bias has ids [5000], the vocabulary has ids 0 to 1023"
    )
    assert "may leave no token to choose" in refusal(tree, allowed_token_ids=[2], min_tokens=1)


def test_a_dry_run_tries_the_rows_own_grammars_and_edits(tree, tmp_path):
    columns = {
        "prompt": ["a", "b", "c"],
        "re": ["x+", "[x", None],
        "bias": [None, None, '{"5000": 1}'],
    }
    pq.write_table(pa.table(columns), tmp_path / "own.parquet")
    tree["input"] |= {"paths": str(tmp_path / "own.parquet"), "id_column": None}
    tree = with_sampling(tree, columns={"regex": "re", "logit_bias": "bias"})
    job = job_of(tree)
    errors = [row.error for _, row in preview(job).rows]
    assert errors[0] is None
    assert errors[1].startswith('regex is refused: invalid regex "[x"')
    assert errors[2] == "logit_bias has ids [5000], the vocabulary has ids 0 to 1023"


@pytest.mark.parametrize(
    ("sampling", "needed"),
    [
        ({}, False),
        ({"logit_bias": {3: 1.0}, "columns": {"seed": "s"}}, False),
        ({"bad_words": ["a"]}, True),
        ({"columns": {"bad_words": "b"}}, True),
        ({"columns": {"regex": "r"}}, True),
        ({"columns": {"stop": "s"}}, True),
    ],
)
def test_the_engine_gets_a_tokenizer_where_an_option_is_about_text(sampling, needed):
    assert needs_text(SamplingConfig.model_validate(sampling)) is needed


@pytest.mark.parametrize(("asked", "longest"), [({}, 0), ({"max_new_tokens": 7}, 7)])
def test_prompts_are_scored_without_a_completion_unless_one_is_asked_for(tree, asked, longest):
    tree["sampling"] = {"prompt_logprobs": True} | asked
    job = job_of(tree)
    assert job.config.sampling.params.max_new_tokens == longest
    assert {"prompt_logprobs", "prompt_perplexity"} <= {*job.layout.output.names}


def test_good_grammars_are_let_through(tree):
    for options in ({"json_schema": SCHEMA}, {"regex": "a+"}, {"choices": ["a", "b"]}, {"choices": "a"}):
        assert job_of(with_sampling(tree, **options)).units


def test_a_schema_may_lie_in_a_file(tree, tmp_path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA, indent=2))
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(with_sampling(tree, json_schema=str(file)), sort_keys=False))
    sampling = load_config(GenerateConfig, config).sampling
    assert json.loads(sampling.params.json_schema) == SCHEMA


def test_a_schema_file_that_is_not_there_is_named(tree, tmp_path):
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(with_sampling(tree, json_schema="nowhere.json")))
    with pytest.raises(ConfigError, match="sampling.json_schema cannot be read from nowhere.json"):
        load_config(GenerateConfig, config)


def test_two_grammars_in_a_config_are_refused(tree, tmp_path):
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(with_sampling(tree, regex="a", choices=["a"])))
    with pytest.raises(ConfigError, match="sampling must have at most one of json_schema, regex, choices"):
        load_config(GenerateConfig, config)


def test_the_schema_and_its_order_are_in_the_fingerprint(tree):
    def fingerprint_of(schema):
        return job_of(with_sampling(tree, json_schema=schema)).fingerprint

    turned = SCHEMA | {"properties": dict(reversed(SCHEMA["properties"].items()))}
    assert turned == SCHEMA
    assert len({fingerprint_of(schema) for schema in (SCHEMA, turned, None)}) == 3


def rows_of(tree, prompts, tmp_path, *, mode="consensus", own=None, **sampling) -> list[dict]:
    """What an actor with the demo model writes for prompts; `own` are the rows' own options."""
    tree = with_sampling(tree, **sampling) | {"model": {"path": str(DEMO_MODEL)}}
    tree |= {"decode": {"mode": mode, "max_context": 256, "token_budget": 64, "self_check": False}}
    config = GenerateConfig.model_validate(tree)
    spec = ActorSpec(
        checkpoint=locate(config.model),
        dtype="float32",
        device="cpu",
        threads=1,
        decode=config.decode,
        sampling=config.sampling,
        layout=TableLayout(pa.schema([]), (), token_ids=True),
        failures=FailureNotes(f"{tmp_path}/failures", f"{tmp_path}/data"),
        retries=1,
    )
    tokenizer = load_tokenizer(str(DEMO_MODEL))
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    ids = [
        tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=False) for one in messages
    ]
    table = unit(ids, limits=[60] * len(ids), params=own)

    async def generate():
        return await GenerateActor(spec)(table)

    return asyncio.run(generate()).to_pylist()


def test_the_actor_writes_json_that_the_schema_admits_with_drafts_and_without(tree, tmp_path):
    prompts = [f"Sam has {n} apples and buys {n + 3} more. How many apples does Sam have?" for n in range(8)]
    by_mode = [
        rows_of(tree, prompts, tmp_path, mode=mode, json_schema=SCHEMA, temperature=1.0)
        for mode in ("consensus", "autoregressive")
    ]
    assert [row["finish_reason"] for row in by_mode[0]] == ["stop"] * 8
    for row in by_mode[0]:
        jsonschema.validate(json.loads(row["completion"]), SCHEMA)
    assert [row["token_ids"] for row in by_mode[1]] == [row["token_ids"] for row in by_mode[0]]


def test_the_actor_writes_one_of_the_choices(tree, tmp_path):
    rows = rows_of(tree, ["Is 7 odd?", "Is 8 odd?"], tmp_path, choices=["yes", "no"])
    assert {row["completion"] for row in rows} <= {"yes", "no"}


def test_every_row_obeys_its_own_grammar_and_edits(tree, tmp_path):
    rows = rows_of(
        tree,
        ["Is 7 odd?"] * 4,
        tmp_path,
        columns={"choices": "c", "regex": "r", "bad_words": "b"},
        own=[
            {"choices": ["maybe", "never"]},
            {"regex": "[0-9]{3}"},
            {"bad_words": ["are"], "max_new_tokens": 20},
            {"max_new_tokens": 20},
        ],
    )
    assert rows[0]["completion"] in ("maybe", "never")
    assert re.fullmatch("[0-9]{3}", rows[1]["completion"])
    tokenizer = load_tokenizer(str(DEMO_MODEL))
    spelled = [tokenizer.encode(text) for text in ("are", " are")]

    def holds(ids):
        return any(ids[i : i + len(word)] == word for word in spelled for i in range(len(ids)))

    assert [holds(row["token_ids"]) for row in rows[2:]] == [False, True]
