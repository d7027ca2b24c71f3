"""A row's own sampling options."""

import datetime
import json
from decimal import Decimal

import pytest

from orthrus_core.errors import RequestError
from orthrus_core.request import SamplingParams
from pipelines.generate.config.sampling import SamplingConfig
from pipelines.generate.prompt.row_params import ParamColumns, with_overrides

COLUMNS = {
    "temperature": "te",
    "top_k": "tk",
    "top_p": "tp",
    "min_p": "mi",
    "seed": "se",
    "stop": "st",
    "n": "n",
    "json_schema": "js",
    "regex": "re",
    "choices": "ch",
    "repetition_penalty": "rp",
    "min_tokens": "mt",
    "logit_bias": "lb",
    "bad_words": "bw",
    "allowed_token_ids": "al",
}


def of(row, **sampling):
    config = SamplingConfig.model_validate({"columns": COLUMNS, **sampling})
    return ParamColumns(config).of(dict.fromkeys(COLUMNS.values()) | row)


def test_nulls_are_the_configs_values():
    params = of({"te": float("nan")}, max_new_tokens=7, n=3)  # what pandas makes of null beside numbers
    assert (params.max_new_tokens, params.n, params.overrides) == (7, 3, None)


def test_values_replace_the_configs():
    params = of({"te": 0.5, "tk": 3, "tp": 0.5, "se": 2**40, "n": 2}, n=3)
    assert params.n == 2
    assert json.loads(params.overrides) == {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "seed": 2**40}


@pytest.mark.parametrize(("stop", "found"), [("END", ["END"]), (["a", "b"], ["a", "b"]), ([], [])])
def test_stop_is_a_text_or_a_list_of_texts(stop, found):
    assert json.loads(of({"st": stop}).overrides) == {"stop": found}


@pytest.mark.parametrize(
    ("row", "own"),
    [
        ({"js": '{"type": "string"}'}, {"json_schema": '{"type": "string"}', "regex": None, "choices": []}),
        ({"ch": ["a", "b"]}, {"choices": ["a", "b"], "json_schema": None, "regex": None}),
        (
            {"re": "a+", "rp": 1.5},
            {"regex": "a+", "repetition_penalty": 1.5, "json_schema": None, "choices": []},
        ),
    ],
)
def test_a_grammar_of_the_row_is_in_place_of_the_configs(row, own):
    assert json.loads(of(row, regex="b+").overrides) == own


@pytest.mark.parametrize("value", ['{"7": 1.5, "3": -2}', [(7, 1.5), (3, -2.0)]])
def test_biases_are_json_text_or_a_map(value):
    assert json.loads(of({"lb": value}).overrides) == {"logit_bias": [[3, -2.0], [7, 1.5]]}


def test_lists_reach_the_engine_as_it_wants_them():
    row = {"bw": ["no", "never"], "al": [3, 5], "lb": '{"3": 1}', "mt": 2}
    params = with_overrides(SamplingParams(max_new_tokens=9, seed=4), of(row).overrides)
    assert params == SamplingParams(
        max_new_tokens=9,
        seed=4,
        bad_words=("no", "never"),
        allowed_token_ids=(3, 5),
        logit_bias={3: 1.0},
        min_tokens=2,
    )
    assert hash(params)


def test_whole_numbers_may_come_as_floats():
    assert json.loads(of({"se": 5.0}).overrides) == {"seed": 5}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"te": -1.0}, "column te: temperature must be >= 0.0, got -1.0"),
        ({"te": 1e-6}, "column te: temperature must be 0 (greedy) or >= 0.0001, got 1e-06"),
        ({"te": "hot"}, "column te: temperature must be a number, got 'hot'"),
        ({"te": True}, "column te: temperature must be a number, got True"),
        ({"mi": 1.5}, "column mi: min_p must be <= 1.0, got 1.5"),
        ({"se": -1}, "column se: seed must be >= 0, got -1"),
        ({"se": 2**63}, f"column se: seed must be < {2**63}, got {2**63}"),
        ({"se": 0.5}, "column se: seed must be a whole number, got 0.5"),
        ({"tk": 1e300}, "column tk: top_k must be a whole number below 2^63, got 1e+300"),
        ({"st": ["a", ""]}, "column st: stop must hold no empty string, got ['a', '']"),
        ({"st": 5}, "column st: stop must be a text or a list of texts, got 5"),
        ({"te": 1e39}, "column te: temperature must be <= 1000000.0, got 1e+39"),
        ({"tk": 2**63}, f"column tk: top_k must be < {2**63}, got {2**63}"),
        ({"n": 0}, "column n: n must be >= 1, got 0"),
        ({"js": {"type": None}}, "column js: json_schema must be a JSON schema as text, got {'type': None}"),
        (
            {"js": "/etc/secret.json"},
            "column js: json_schema must be a JSON schema as text, got '/etc/secret.json'",
        ),
        (
            {"js": "{"},
            "column js: json_schema must be a JSON schema, got '{', which is no JSON: Expecting property "
            "name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        ({"rp": 0.0}, "column rp: repetition_penalty must be > 0.0, got 0.0"),
        ({"al": "3"}, "column al: allowed_token_ids must be a list of ids, got '3'"),
        ({"mt": "3"}, "column mt: min_tokens must be a number, got '3'"),
        ({"n": 1025}, "column n: n must be <= 1024, got 1025"),
    ],
)
def test_a_bad_value_names_column_rule_and_value(row, reason):
    with pytest.raises(RequestError) as caught:
        of(row)
    assert str(caught.value) == reason


@pytest.mark.parametrize("option", COLUMNS)
@pytest.mark.parametrize(
    "value",
    [
        [["a"]],
        {"a": 1},
        [{"a": [1]}],
        [None],
        b"\xff",
        datetime.timedelta(1),
        [b"\xff"],
        Decimal("NaN"),
        10**400,
    ],
    ids=str,
)
def test_a_value_of_any_other_type_is_the_rows_error(option, value):
    with pytest.raises(RequestError, match=f"^column {COLUMNS[option]}: {option}"):
        of({COLUMNS[option]: value})


def test_a_long_bad_value_is_cut_in_the_error():
    with pytest.raises(RequestError) as caught:
        of({"st": ["x" * 10_000, ""]})
    assert len(str(caught.value)) == 200
