"""What options of sampling add to the rows of a real engine."""

import math
from dataclasses import replace

import pytest

from pipelines.generate.decode.actor import GenerateActor
from tests.pipelines.generate.decode.test_actor import call, spec, written_with  # noqa: F401
from tests.pipelines.unit_tables import unit


def test_text_ends_before_the_stop_string_and_ids_hold_it(spec):  # noqa: F811
    free, other = written_with(spec)
    stop = free["completion"][5:8]
    assert stop not in other["completion"]
    before = free["completion"][: free["completion"].index(stop)]
    stopped, untouched = written_with(spec, stop=(stop,))
    assert (stopped["completion"], stopped["finish_reason"]) == (before, "stop")
    assert stopped["token_ids"] == free["token_ids"][: len(stopped["token_ids"])]
    assert len(stopped["token_ids"]) == stopped["completion_tokens"] < len(free["token_ids"])
    assert untouched["completion"] == other["completion"]
    kept, _ = written_with(spec, stop=(stop,), include_stop_str=True)
    assert kept["completion"] == before + stop


def test_scored_prompts_have_log_probabilities_and_perplexity_and_no_completion(spec):  # noqa: F811
    layout = replace(spec.layout, prompt_logprobs=True)
    sampling = spec.sampling.model_copy(update={"prompt_logprobs": True, "max_new_tokens": 0})
    asked = replace(spec, layout=layout, sampling=sampling)
    table = unit([[5, 6, 7], [300]], params=[{}, {}])
    several, single = call(GenerateActor(asked), table)[0].to_pylist()
    first, *scores = several["prompt_logprobs"]
    assert first is None
    assert several["prompt_perplexity"] == pytest.approx(math.exp(-sum(scores) / 2))
    assert (several["completion"], several["finish_reason"], several["token_ids"]) == ("", "length", [])
    assert (single["prompt_logprobs"], single["prompt_perplexity"]) == ([None], None)


def test_the_likeliest_tokens_are_written_when_asked_for(spec):  # noqa: F811
    layout = replace(spec.layout, top_logprobs=True, logprobs=True)
    row, bad = written_with(replace(spec, layout=layout), logprobs=2)
    assert [place[0]["id"] for place in row["top_logprobs"]] == row["token_ids"]
    assert [place[0]["logprob"] for place in row["top_logprobs"]] == row["logprobs"]
    assert {len(place) for place in row["top_logprobs"]} == {2}


def test_log_probabilities_are_written_when_asked_for(spec):  # noqa: F811
    layout = replace(spec.layout, logprobs=True)
    asked = replace(spec, layout=layout, sampling=spec.sampling.model_copy(update={"logprobs": True}))
    good, bad = call(GenerateActor(asked), unit([[5, 6, 7], [5000]]))[0].to_pylist()
    assert len(good["logprobs"]) == good["completion_tokens"]
    assert sum(good["logprobs"]) / len(good["logprobs"]) == pytest.approx(good["mean_logprob"])
    assert bad["logprobs"] is None
    assert "logprobs" not in written_with(spec)[0]
