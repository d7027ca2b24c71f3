import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from itertools import product
from pathlib import Path

import pytest
from rich.console import Console

from orthrus_core.errors import ConfigError
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.job import broken_promises, evaluate
from pipelines.evaluate.page import evaluation_page
from pipelines.evaluate.report import render_evaluation
from pipelines.evaluate.speed import token_budgets
from pipelines.evaluate.speed_config import LoadConfig
from tests.orthrus_core.evaluation.shapes import TINY


@pytest.fixture(scope="module")
def tree(model_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluate")
    rows = [{"prompt": f"Add {n} and {n + 1}.", "kind": "add", "answer": str(2 * n + 1)} for n in range(10)]
    (directory / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": {"path": str(model_dir), "dtype": "float32", "device": "cpu"},
        "prompt_sets": {
            "sums": {"path": str(directory / "prompts.jsonl"), "column": "prompt", "rows": 6, "score": "demo"}
        },
        "decode": {"token_budget": 32, "max_sequences": 3, "max_context": 96, "block_policy": "fixed"},
        "sampling": {"max_new_tokens": 12, "top_p": 0.95},
        "exactness": {"temperatures": [0, 0.7], "batches": [1, 3], "itself": ["transformers", "vllm"]},
        "vllm": {"python": "/nowhere/python"},
        "speed": {
            "rounds": 2,
            "warm_up_rows": 1,
            "loads": [
                {
                    "batch": 1,
                    "rows": 2,
                    "token_budget": 16,
                    "systems": ["transformers", "prompt_lookup"],
                },
                {"batch": 2, "rows": 3, "systems": ["generate_batch"]},
                {"batch": 2, "rows": 3, "context": 70, "systems": []},
            ],
        },
        "replay": {
            "shape": TINY.model_dump() | {"vocab_size": 50, "hidden_size": 8, "head_dim": 4},
            "acceptance": {"conditional": [1.0, 1.0]},
            "prompt_tokens": 5,
            "new_tokens": 13,
            "rounds": 1,
            "loads": [{"batch": 1, "rows": 1}, {"batch": 2, "rows": 2}],
        },
        "memory": {"prompt_set": "sums", "load": {"batch": 2, "rows": 2}},
        "output": str(directory / "deep" / "report.json"),
    }


@pytest.fixture(scope="module")
def report(tree):
    return evaluate(EvaluateConfig.model_validate(tree))


def test_the_report_on_disk_is_the_one_returned(tree, report):
    with open(tree["output"], encoding="utf-8") as file:
        assert json.load(file) == report
    assert report["config"]["prompt_sets"]["sums"]["rows"] == 6


def test_both_dtypes_are_compared_and_agree(report):
    runs = [(text["dtype"], text["batch"], text["temperature"]) for text in report["texts"]]
    assert runs == list(product(["float32", "bfloat16"], [1, 3], [0, 0.7]))
    for text in report["texts"]:
        exactness = text["exactness"]
        assert exactness["level"] == "exact"
        assert {exactness[name] for name in ("rows", "identical_tokens", "identical_logprobs")} == {6}
        assert exactness["share"] == {"value": 1.0, "low": pytest.approx(0.6097, abs=1e-4), "high": 1.0}
        assert exactness["first_position"] is None
    assert broken_promises(report) == []


def test_systems_are_compared_with_themselves_at_the_first_and_the_last_batch(report):
    runs = [(one["system"], one["dtype"], one["temperature"]) for one in report["itself"]]
    own = [("AR", dtype, heat) for dtype, heat in product(["float32", "bfloat16"], [0, 0.7])]
    assert runs == [*own, ("transformers generate", "bfloat16", 0)]
    assert all(one["batches"] == [1, 3] for one in report["itself"])
    assert {one["identical_tokens"] for one in report["itself"] if one["system"] == "AR"} == {6}


def test_sampled_texts_are_no_greedy_ones(report):
    greedy, sampled = (text["acceptance"] for text in report["texts"][:2])
    assert greedy["accepted_by_position"] != sampled["accepted_by_position"]


def test_what_is_not_installed_is_left_out_with_a_line(report):
    assert report["left_out"] == ["vLLM: no /nowhere/python; `make bench-peers` installs it"]


def test_answers_of_a_random_model_are_counted_as_wrong(report):
    answers = {"rows": 6, "right": 0, "share": 0.0, "by_kind": {"add": [0, 6]}}
    assert report["texts"][0]["answers"] == answers | {"consensus_right": 0, "graded_alike": 6}


def test_acceptance_is_between_one_and_a_whole_block(report):
    figures = report["texts"][0]["acceptance"]
    assert 1.0 <= figures["acceptance_length"] <= 9.0
    assert figures["tokens_per_forward"] < figures["acceptance_length"]
    assert all(0.0 <= share <= 1.0 for share in figures["accepted_by_position"])
    assert 1.0 <= figures["per_question"]["acceptance_length"] <= 9.0


def test_every_system_is_timed_under_every_load(report):
    names = [[(s["name"], s["token_budget"]) for s in load["systems"]] for load in report["speed"]]
    assert names == [
        [
            ("consensus", 16),
            ("AR", 16),
            ("transformers generate", None),
            ("transformers prompt lookup", None),
        ],
        [("consensus", None), ("AR", None), ("transformers generate_batch", None)],
        [("consensus", None), ("AR", None)],
    ]
    assert [load["context"] for load in report["speed"]] == [None, None, 70]
    for load in report["speed"]:
        for system in load["systems"]:
            assert len(system["seconds"]) == 2
            assert system["rows_as_consensus"] == load["rows"]
            assert system["tokens"] == load["systems"][0]["tokens"]
        assert load["acceptance_length"] >= 1.0
        assert load["per_question_ratio"] > 0


def test_replayed_drafts_stand_as_often_as_asked_and_leave_the_text_alone(report):
    replay = report["replay"]
    assert replay["tokens_per_step_asked"] == 3.0
    # 12 tokens after the first, 3 a step
    assert [load["acceptance_length"] for load in replay["loads"]] == [3.0, 3.0]
    for load in replay["loads"]:
        assert {system["rows_as_consensus"] for system in load["systems"]} == {load["rows"]}
        assert {tokens for system in load["systems"] for tokens in system["tokens"]} == {13 * load["rows"]}


def test_both_modes_have_the_same_cache(report):
    consensus, ar = report["memory"]["modes"]
    assert (consensus["mode"], ar["mode"]) == ("consensus", "autoregressive")
    assert consensus["cache_bytes"] == ar["cache_bytes"]
    assert consensus["cache_bytes_per_token"] == ar["cache_bytes_per_token"]


def test_the_terminal_shows_the_figures(report):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_evaluation(report, "report.json"))
    text = console.export_text()
    for part in (
        "REPLAYED",
        "cache bytes/token",
        "6 of 10 rows",
        "0 of 6 (0.0 %)",
        "61.0-100.0",
        "transformers / itself",
        "left out: vLLM: no /nowhere/python",
        "6 of 6",
        "transformers prompt lookup",
    ):
        assert part in text


def test_a_row_that_differs_under_exact_is_a_broken_promise(report):
    exactness = report["texts"][1]["exactness"] | {"identical_tokens": 4}
    planted = {"texts": [report["texts"][0], report["texts"][1] | {"exactness": exactness}]}
    assert broken_promises(planted) == ["sums in float32, temperature 0.7, batch 1: 2 of 6 rows"]
    exactness["level"] = "unverified"
    assert broken_promises(planted) == []


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({"batch": 1}, {"consensus": None, "AR": None}),
        ({"batch": 8, "token_budget": 80}, {"consensus": 80, "AR": 80}),
        ({"batch": 8, "token_budget": 64, "ar_token_budget": 16}, {"consensus": 64, "AR": 16}),
    ],
)
def test_token_budgets_are_the_engine_s_choice_where_the_load_names_none(load, expected):
    assert token_budgets(LoadConfig(rows=1, **load)) == expected


def without_tokenizer(model_dir, directory):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(model_dir, name), directory)
    return {"path": str(directory), "device": "cpu"}


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (
            "sampling",
            {"max_new_tokens": 90},
            "no prompt of sums leaves room for sampling.max_new_tokens (90)",
        ),
        (
            "decode",
            {"max_context": 9999},
            "decode.max_context must be <= 1024, the model's positions, got 9999",
        ),
        (
            "speed",
            {"loads": [{"batch": 1, "rows": 1, "context": 90}]},
            "context 90 leaves no room for sampling",
        ),
        (
            "speed",
            {"loads": [{"batch": 1, "rows": 1, "context": 5}]},
            "no prompt of sums fits into context 5",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(tree, section, options, message):
    config = EvaluateConfig.model_validate(tree | {section: options})
    with pytest.raises(ConfigError) as caught:
        evaluate(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_tokenizer_is_a_mistake_in_one_line(tree, model_dir, tmp_path):
    config = EvaluateConfig.model_validate(tree | {"model": without_tokenizer(model_dir, tmp_path)})
    with pytest.raises(ConfigError, match="model.path: no usable tokenizer") as caught:
        evaluate(config)
    assert "\n" not in str(caught.value)


def test_the_page_beside_the_report_has_plots_and_needs_nothing_from_outside(tree, report):
    page = Path(tree["output"]).with_suffix(".html").read_text()
    plots = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(plots) == 3
    for plot in plots:
        ElementTree.fromstring(plot)
    assert "<script" not in page
    links = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', page)
    assert all(link.startswith("#") for pair in links for link in pair if link)
    for title in ("Left out", "Exactness", "Right answers", "Acceptance", "Speed", "How it was made"):
        assert title in page


def test_text_of_a_report_is_escaped_on_the_page(report):
    hostile = report | {"left_out": ["<script>"], "model": {"path": "<script>"}}
    assert "<script" not in evaluation_page(hostile)
