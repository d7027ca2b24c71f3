"""Rows with several turns: what separate requests write one after the other, on shared pages."""

import itertools
import json
import os
from dataclasses import replace
from functools import cache

import pyarrow as pa
import pytest
import torch

from orthrus_core import Engine, EngineConfig, Request, SamplingParams, load_model
from pipelines.checkpoint.directory import load_tokenizer
from pipelines.generate.audit.plan import HASHES, AuditPlan
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.decode.actor import GenerateActor
from pipelines.generate.decode.texts import TextDecoder
from pipelines.generate.prompt.unit import render_unit
from pipelines.read.columns import ENGINE, TableLayout
from tests.fakes import FakeEngine, fake_engine
from tests.pipelines.generate.decode.test_actor import call, spec  # noqa: F401
from tests.pipelines.generate.prompt.test_unit import unit

PAGE = 16
ROWS = {
    "q": ["Add 1 and 1.", "Add 20 and 3.", "Say a."],
    "more": ["And 3?", "Why?", "Say b."],
    "s": [7, 2**40, 1],
}


@pytest.fixture
def talk(spec, tree):  # noqa: F811
    """Runs rows through the two stages; options go to the actor's spec."""

    def run(rows=ROWS, engine_factory=None, sampling=None, prefill=None, mode="consensus", **options):
        prompt = {"column": "q", "turns": ["{{ more }}", "So?"], "prefill": prefill}
        tree["input"] |= {"prompt": prompt, "id_column": None}
        tree["sampling"] = {"max_new_tokens": 12} | (sampling or {})
        tree["output"] |= {"prefill": prefill is not None}
        config = GenerateConfig.model_validate(tree)
        flags = {"completions": True, "token_ids": True, "prompt_token_ids": True, "logprobs": True}
        layout = TableLayout(pa.schema([]), (), **flags)
        asked = replace(
            spec,
            sampling=config.sampling,
            layout=layout,
            prompt=config.input.prompt,
            decode=config.decode.model_copy(update={"mode": mode}),
            **options,
        )
        actor = GenerateActor(asked, *([engine_factory] if engine_factory else []))
        [table] = call(actor, render_unit(unit(rows), config, spec.checkpoint.source, layout))
        return table.to_pylist()

    return run


@cache
def plain_engine(path: str) -> Engine:
    model = load_model(path, dtype=torch.float32)
    return Engine(model, EngineConfig(mode="autoregressive", max_context=256))


def separate_requests(path, texts, params, sample=0, prefill=""):
    """(prompt ids, completion, text) of each turn, in plain AR, by requests that share no pages."""
    engine, tokenizer, messages = plain_engine(path), load_tokenizer(path), []
    found = []
    for text in texts:
        messages.append({"role": "user", "content": text})
        shown = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) + prefill
        ids = tokenizer.encode(shown, add_special_tokens=False)
        engine.forget_prompts()
        [completion] = engine.run([Request(ids, params, sample=sample)])
        answer = prefill + TextDecoder(path).decode(completion.token_ids)
        messages.append({"role": "assistant", "content": answer})
        found.append((ids, completion, answer))
    return found


@pytest.mark.parametrize("mode", ["consensus", "autoregressive"])
def test_each_turn_of_each_sample_is_what_separate_requests_write(talk, spec, mode):  # noqa: F811
    sampling = {"temperature": 1.2, "n": 2, "logprobs": True, "columns": {"seed": "s"}}
    rows = talk(sampling=sampling, mode=mode)
    assert [row["sample"] for row in rows] == [0, 1] * 3
    for place, row in enumerate(rows):
        question, more, seed = (ROWS[name][place // 2] for name in ("q", "more", "s"))
        params = SamplingParams(max_new_tokens=12, temperature=1.2, seed=seed, logprobs=True)
        expected = separate_requests(spec.checkpoint.path, (question, more, "So?"), params, row["sample"])
        assert [one["text"] for one in row["completions"]] == [text for _, _, text in expected]
        assert [one["token_ids"] for one in row["completions"]] == [one.token_ids for _, one, _ in expected]
        assert [one["logprobs"] for one in row["completions"]] == [one.logprobs for _, one, _ in expected]
        last_ids, last, text = expected[-1]
        assert (row["completion"], row["token_ids"], row["logprobs"]) == (text, last.token_ids, last.logprobs)
        assert (row["prompt_token_ids"], row["finish_reason"]) == (last_ids, last.finish_reason)
        assert row["prompt_tokens"] == sum(len(ids) for ids, _, _ in expected)
        assert row["completion_tokens"] == sum(len(one.token_ids) for _, one, _ in expected)
        total = sum(one.stats.logprob for _, one, _ in expected)
        assert row["mean_logprob"] == pytest.approx(total / row["completion_tokens"], rel=1e-6)


def test_a_turn_starts_from_the_full_pages_of_the_turn_before(talk, spec):  # noqa: F811
    row = talk(sampling={"max_new_tokens": 40})[1]
    texts, params = (ROWS["q"][1], ROWS["more"][1], "So?"), SamplingParams(max_new_tokens=40)
    turns = separate_requests(spec.checkpoint.path, texts, params)
    cached = [0]
    for (before, completion, _), (prompt, _, _) in itertools.pairwise(turns):
        held = before + completion.token_ids[:-1]  # the last token has no keys and values
        alike = len(os.path.commonprefix([held, prompt[:-1]]))
        assert alike >= len(before)
        cached.append(alike // PAGE * PAGE)
    assert [one["cached_tokens"] for one in row["completions"]] == cached
    assert row["cached_tokens"] == sum(cached) > 0


def test_a_turn_that_does_not_fit_ends_the_row_with_its_number_and_keeps_the_answers_before(talk, spec):  # noqa: F811
    fine, failed, other = talk(ROWS | {"more": ["And 3?", "word " * 400, "Say b."]})
    params = SamplingParams(max_new_tokens=12)
    [(_, completion, text)] = separate_requests(spec.checkpoint.path, ROWS["q"][1:2], params)
    assert failed["error"].startswith("turn 2 of 3: prompt has ")
    assert failed["error"].endswith(" tokens, decode.max_context is 256")
    assert (failed["completion"], failed["finish_reason"], failed["token_ids"]) == (None, "error", None)
    assert [one["text"] for one in failed["completions"]] == [text]
    assert failed["completion_tokens"] == len(completion.token_ids)
    assert [len(row["completions"]) for row in (fine, other)] == [3, 3]
    assert (fine["error"], other["error"]) == (None, None)


def test_an_answer_that_fails_ends_the_row_in_its_turn(talk, spec):  # noqa: F811
    [poison] = load_tokenizer(spec.checkpoint.path).encode("?", add_special_tokens=False)
    row = talk({"q": ["a"], "more": ["Why?"], "s": [1]}, lambda _: FakeEngine(poison=poison))[0]
    assert row["error"] == "turn 2 of 3: logits at position 3 are NaN"
    assert len(row["completions"]) == 1


def test_every_turn_begins_with_the_prefill(talk, spec):  # noqa: F811
    row = talk(prefill="So ")[0]
    texts, params = (ROWS["q"][0], ROWS["more"][0], "So?"), SamplingParams(max_new_tokens=12)
    expected = separate_requests(spec.checkpoint.path, texts, params, prefill="So ")
    assert [one["text"] for one in row["completions"]] == [text for _, _, text in expected]
    assert row["completion"] == expected[-1][2]


def test_the_audit_decodes_every_turn_again(talk):
    rows = talk(audit=AuditPlan("f00", HASHES), sampling={"temperature": 1.0})
    audit = json.loads(rows[0][ENGINE])["audit"]
    assert (audit["selected"], audit["compared"], audit["identical"]) == (9, 9, 9)


def test_copies_are_rows_whose_every_turn_was_generated_for_another(talk):
    rows = {"q": ["a", "a", "a"], "more": ["b", "b", "c"], "s": [1, 2, 3]}
    engines = []
    written = talk(rows, lambda one: engines.append(fake_engine(one)) or engines[0], dedup_tokens=1000)
    assert [one["completions"] for one in written] == [one["completions"] for one in talk(rows, fake_engine)]
    assert engines[0].submitted == 1 + 2 + 2  # first turns, then those of rows 0 and 2
    assert json.loads(written[0][ENGINE])["counts"]["deduplicated"] == 1
