"""The actor, without Ray: a table of prompts in, a table of completions out."""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from pipelines.checkpoint.directory import load_tokenizer, locate
from pipelines.cluster.failures import FailureNotes
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.config.sampling import SamplingColumns
from pipelines.generate.decode.actor import GenerateActor, load_engine
from pipelines.generate.decode.spec import ActorSpec, trial_prompts
from pipelines.read.columns import ENGINE, PLACE, PROMPT_TOKENS, SHARD, UNIT, TableLayout
from tests.fakes import FakeEngine, fake_completion, fake_engine
from tests.pipelines.conftest import job_of
from tests.pipelines.unit_tables import unit


@pytest.fixture
def spec(tree, tmp_path):
    config = GenerateConfig.model_validate(tree)
    return ActorSpec(
        checkpoint=locate(config.model),
        dtype="float32",
        device="cpu",
        threads=1,
        decode=config.decode,
        sampling=config.sampling,
        layout=TableLayout(
            pa.schema([("note", pa.string())]), ("note",), token_ids=True, prompt_token_ids=True
        ),
        failures=FailureNotes(f"{tmp_path}/failures", f"{tmp_path}/data"),
        retries=1,
    )


def call(actor, *tables) -> list[pa.Table]:
    async def together():
        return await asyncio.gather(*(actor(table) for table in tables))

    return asyncio.run(together())


def test_the_output_has_the_columns_of_the_layout_and_what_the_sink_needs(spec):
    [table] = call(GenerateActor(spec, fake_engine), unit([[5], [6]]))
    assert table.column_names == [*spec.layout.output.names, SHARD, UNIT, PLACE, ENGINE]
    assert table.select(spec.layout.output.names).schema == spec.layout.output


def test_rows_keep_their_order_and_their_tokens(spec):
    [table] = call(GenerateActor(spec, fake_engine), unit([[30], [1], [22]]))
    tokenizer = load_tokenizer(spec.checkpoint.path)
    expected = [fake_completion([n], 9) for n in (30, 1, 22)]
    assert table.column("token_ids").to_pylist() == expected
    assert table.column("completion").to_pylist() == [tokenizer.decode(ids) for ids in expected]
    assert table.column("prompt_token_ids").to_pylist() == [[30], [1], [22]]


@pytest.mark.parametrize(
    ("group_prefixes", "order"), [(True, [[1], [1, 9], [22], [30]]), (False, [[30], [1, 9], [22], [1]])]
)
def test_rows_that_begin_alike_enter_the_engine_together_where_that_is_asked_for(spec, group_prefixes, order):
    engine, entered = fake_engine(spec), []
    submit = engine.submit
    engine.submit = lambda request: entered.append(list(request.prompt_ids)) or submit(request)
    actor = GenerateActor(replace(spec, group_prefixes=group_prefixes), lambda spec: engine)
    [table] = call(actor, unit([[30], [1, 9], [22], [1]]))
    assert entered == order
    assert table.column("prompt_token_ids").to_pylist() == [[30], [1, 9], [22], [1]]
    assert table.column("token_ids").to_pylist() == [fake_completion(n, 9) for n in ([30], [1, 9], [22], [1])]


def test_completions_begin_with_the_prefill_of_their_row(spec):
    plain, begun = (
        call(
            GenerateActor(spec, fake_engine),
            unit([[5], [6], [7]], errors=[None, None, "bad"], prefills=prefills),
        )
        for prefills in (None, ["So: ", "", "x"])
    )
    texts = plain[0].column("completion").to_pylist()
    assert begun[0].column("completion").to_pylist() == ["So: " + texts[0], texts[1], None]


def test_a_row_with_an_error_never_reaches_the_engine(spec):
    [table] = call(
        GenerateActor(spec, fake_engine), unit([[5], None], errors=[None, "prompt is null"], limits=[9, None])
    )
    bad = table.to_pylist()[1]
    assert (bad["completion"], bad["token_ids"], bad["finish_reason"]) == (None, None, "error")
    assert (bad["error"], bad["completion_tokens"], bad["acceptance_length"]) == ("prompt is null", 0, None)
    assert table.column("error")[0].as_py() is None


def test_a_unit_of_errors_only_comes_back(spec):
    [table] = call(GenerateActor(spec, fake_engine), unit([None], errors=["bad"], limits=[None]))
    assert table.column("error").to_pylist() == ["bad"]


def test_counters_of_a_row_are_the_engines(spec):
    [table] = call(GenerateActor(spec, fake_engine), unit([[8]]))
    row = table.to_pylist()[0]
    assert {
        k: row[k] for k in ("prompt_tokens", "completion_tokens", "steps", "forwards", "drafted", "accepted")
    } == {
        "prompt_tokens": 1,
        "completion_tokens": 9,
        "steps": 3,
        "forwards": 6,
        "drafted": 24,
        "accepted": 6,
    }
    assert (row["acceptance_length"], row["tokens_per_forward"], row["mean_logprob"]) == (3.0, 1.5, -0.25)
    assert (row["sample"], row["seed"], row["exactness"]) == (0, 0, "exact")


def test_a_rows_own_limit_is_kept(spec):
    [table] = call(GenerateActor(spec, fake_engine), unit([[8], [8]], limits=[9, 3]))
    assert table.column("completion_tokens").to_pylist() == [9, 3]


def test_several_units_in_flight_come_back_whole(spec):
    tables = call(GenerateActor(spec, fake_engine), *(unit([[n], [n + 1]], index=n) for n in range(10)))
    for n, table in enumerate(tables):
        assert table.column(UNIT).to_pylist() == [n, n]
        assert table.column("token_ids").to_pylist() == [fake_completion([n], 9), fake_completion([n + 1], 9)]


def test_the_first_row_carries_the_counts_of_its_unit(spec):
    [table] = call(
        GenerateActor(spec, fake_engine),
        unit([[8], None, [9]], errors=[None, "bad", None], limits=[9, None, 9]),
    )
    facts = json.loads(table.column(ENGINE)[0].as_py())
    assert facts["counts"] == {
        "prompt_tokens": 2,
        "cached_tokens": 0,
        "completion_tokens": 10,
        "lookup_drafted": 0,
        "lookup_accepted": 0,
        "steps": 4,
        "forwards": 8,
        "drafted": 32,
        "accepted": 6,
        "step_tokens": 10,
        "rows_in": 3,
        "rows": 3,
        "errors": 1,
        "deduplicated": 0,
        "deduplicated_tokens": 0,
        "finish_length": 2,
        "finish_error": 1,
    }
    assert facts["engine"]["token_budget"] == 64
    assert table.column(ENGINE).null_count == 2


def test_a_real_engine_writes_the_same_text_in_both_modes(spec):
    prompts = unit([[5, 6, 7], [300, 301], [9] * 40], limits=[20, 20, 20])
    consensus, plain = (
        call(GenerateActor(spec_of(spec, mode)), prompts)[0] for mode in ("consensus", "autoregressive")
    )
    assert consensus.column("token_ids") == plain.column("token_ids")
    assert sum(consensus.column("accepted").to_pylist()) > 0


def test_sampled_text_is_the_same_in_both_modes_and_carries_its_seed(spec):
    prompts = unit([[5, 6, 7], [300, 301], [9] * 40], limits=[20, 20, 20])

    def written(mode, seed):
        update = {"temperature": 1.5, "top_p": 0.9, "seed": seed}
        sampled = replace(spec_of(spec, mode), sampling=spec.sampling.model_copy(update=update))
        return call(GenerateActor(sampled), prompts)[0]

    consensus, plain, other = (
        written("consensus", 2**40),
        written("autoregressive", 2**40),
        written("consensus", 1),
    )
    assert consensus.column("token_ids") == plain.column("token_ids")
    assert consensus.column("token_ids") != other.column("token_ids")
    assert consensus.column("seed").to_pylist() == [2**40] * 3


def written_with(spec, **sampling) -> list[dict]:
    """Rows of a real engine for two prompts."""
    asked = replace(spec, sampling=spec.sampling.model_copy(update=sampling))
    return call(GenerateActor(asked), unit([[5, 6, 7], [300, 301]], limits=[20, 20]))[0].to_pylist()


def test_a_rows_own_options_reach_the_engine_and_the_seed_column(spec):
    params = [{"temperature": 0.5, "seed": 3}, {"temperature": 0.5, "seed": 4}, {"seed": 5}]
    [table] = call(GenerateActor(spec, fake_engine), unit([[8]] * 3, params=params))
    expected = [
        fake_completion([8], 24, temperature=0.5, seed=3),
        fake_completion([8], 24, temperature=0.5, seed=4),
        fake_completion([8], 24),
    ]
    assert table.column("token_ids").to_pylist() == expected
    assert expected[0] != expected[1]
    assert table.column("seed").to_pylist() == [3, 4, 5]


def test_samples_of_a_prompt_follow_each_other_and_repeat_its_id_and_columns(spec):
    sampled = replace(spec, sampling=spec.sampling.model_copy(update={"temperature": 1.0}))
    prompts = unit([[8], None, [9]], errors=[None, "bad", None], samples=[[0, 1, 2], [0], [0, 1]])
    [table] = call(GenerateActor(sampled, fake_engine), prompts)
    assert table.column("id").to_pylist() == ["r0", "r0", "r0", "r1", "r2", "r2"]
    assert table.column("sample").to_pylist() == [0, 1, 2, 0, 0, 1]
    assert table.column(PLACE).to_pylist() == [0, 0, 0, 1, 2, 2]
    assert table.column("note").to_pylist() == ["n"] * 6
    written = table.column("token_ids").to_pylist()
    assert written[:3] == [fake_completion([8], 9, temperature=1.0, sample=i) for i in range(3)]
    assert written[3] is None
    counts = json.loads(table.column(ENGINE)[0].as_py())["counts"]
    assert (counts["rows_in"], counts["rows"], counts["errors"]) == (3, 6, 1)


def test_samples_that_the_engine_refuses_are_an_error_row_each(spec):
    [table] = call(
        GenerateActor(spec, lambda _: FakeEngine(poison=7)), unit([[7], [8]], samples=[[0, 1], [0, 1]])
    )
    assert [error is not None for error in table.column("error").to_pylist()] == [True, True, False, False]
    assert table.column("sample").to_pylist() == [0, 1, 0, 1]


def test_only_rows_with_a_temperature_claim_no_more_than_the_distribution(spec):
    decode = spec.decode.model_copy(update={"consensus": "rejection"})
    sampling = spec.sampling.model_copy(update={"columns": SamplingColumns(temperature="t")})
    drawn = replace(spec, decode=decode, sampling=sampling)
    [table] = call(
        GenerateActor(drawn, fake_engine),
        unit([[5], [5]], params=[{"temperature": 0.5}, {"temperature": 0.0}]),
    )
    assert table.column("exactness").to_pylist() == ["distribution", "exact"]
    assert json.loads(table.column(ENGINE)[0].as_py())["engine"]["exactness"] == "distribution"


def test_stop_strings_of_a_column_alone_end_the_text_too(spec):
    free, _ = written_with(spec)
    stop = free["completion"][5:8]
    own = replace(spec, sampling=spec.sampling.model_copy(update={"columns": SamplingColumns(stop="s")}))
    params = [{"max_new_tokens": 20, "stop": [stop]}, {"max_new_tokens": 20}]
    stopped, other = call(GenerateActor(own), unit([[5, 6, 7], [5, 6, 7]], params=params))[0].to_pylist()
    assert stopped["completion"] == free["completion"][: free["completion"].index(stop)]
    assert stopped["finish_reason"] == "stop"
    assert other["completion"] == free["completion"]


def test_samples_of_a_real_engine_are_the_texts_that_each_has_alone(spec):
    params = [{"max_new_tokens": 12, "temperature": 1.5, "seed": 11}]
    [together] = call(GenerateActor(spec), unit([[5, 6, 7]], params=params, samples=[[0, 1, 2]]))
    [alone] = call(GenerateActor(spec), unit([[5, 6, 7]], params=params, samples=[[2]]))
    written = together.column("token_ids").to_pylist()
    assert written[2] == alone.column("token_ids")[0].as_py()
    assert len({tuple(ids) for ids in written}) == 3


def test_copies_are_generated_once_within_a_unit_and_across_units(spec):
    engines = []

    def factory(_):
        engines.append(FakeEngine())
        return engines[0]

    tables = [unit([[8], [9], [8]]), unit([[9], [8], [4]], index=1)]
    shared = call(GenerateActor(replace(spec, dedup_tokens=1000), factory), *tables)
    plain = call(GenerateActor(spec, fake_engine), *tables)
    assert [t.drop_columns(ENGINE) for t in shared] == [t.drop_columns(ENGINE) for t in plain]
    assert engines[0].submitted == 3
    counts = [json.loads(t.column(ENGINE)[0].as_py())["counts"] for t in shared]
    assert [count["deduplicated"] for count in counts] == [1, 2]
    assert counts[0]["deduplicated_tokens"] == len(fake_completion([8], 9))


@pytest.mark.parametrize(
    ("consensus", "mode", "temperature", "level"),
    [
        ("rejection", "consensus", 1.0, "distribution"),
        ("rejection", "consensus", 0.0, "exact"),
        ("rejection", "autoregressive", 1.0, "exact"),
        ("coupled", "consensus", 1.0, "exact"),
    ],
)
def test_rows_drawn_by_the_rejection_rule_claim_no_more_than_the_distribution(
    spec, consensus, mode, temperature, level
):
    decode = spec.decode.model_copy(update={"consensus": consensus, "mode": mode})
    drawn = replace(
        spec, decode=decode, sampling=spec.sampling.model_copy(update={"temperature": temperature})
    )
    [table] = call(GenerateActor(drawn, fake_engine), unit([[5]]))
    assert table.column("exactness").to_pylist() == [level]
    assert json.loads(table.column(ENGINE)[0].as_py())["engine"]["exactness"] == level


def spec_of(spec, mode):
    return replace(spec, decode=spec.decode.model_copy(update={"mode": mode}))


def test_a_prompt_that_the_engine_refuses_becomes_an_error_row(spec):
    [table] = call(GenerateActor(spec), unit([[5, 5000], [5, 6]]))
    errors = table.column("error").to_pylist()
    assert "5000" in errors[0]
    assert errors[1] is None


def test_the_default_factory_uses_the_threads_asked_for(spec):
    import torch

    assert load_engine(spec).exactness in ("exact", "unverified")
    assert torch.get_num_threads() == 1


def test_a_hung_engine_leaves_the_stacks_and_the_reason_and_ends_the_process(spec, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("pipelines.generate.decode.actor.os._exit", lambda code: ended.set())

    class Hanging(FakeEngine):
        def step(self):
            ended.wait(20)
            return super().step()

    actor = GenerateActor(replace(spec, step_timeout_s=0.2), lambda _: Hanging())
    call(actor, unit([[5]]))
    assert ended.is_set()
    assert spec.failures.last_reason() == "the engine hangs: a step took more than 0.2 s (run.step_timeout_s)"
    [note] = Path(spec.failures.url).iterdir()
    assert "in step" in note.read_text()


def test_a_row_without_a_completion_claims_no_exactness_and_tells_the_tokens_that_were_counted(spec):
    prompts = unit([None, None, [7, 7], [8]], errors=["prompt has 5210 tokens", "prompt is null", None, None])
    place = prompts.column_names.index(PROMPT_TOKENS)
    prompts = prompts.set_column(place, PROMPT_TOKENS, pa.array([5210, 0, 0, 0], pa.int32()))
    [table] = call(GenerateActor(spec, lambda _: FakeEngine(poison=7)), prompts)
    assert table.column("exactness").to_pylist() == [None, None, None, "exact"]
    assert table.column("prompt_tokens").to_pylist() == [5210, 0, 2, 1]


def test_the_engine_of_weights_in_bytes_runs_them_and_says_how_its_drafts_stand(spec, tree, caplog):
    caplog.set_level("INFO", logger="orthrus_core.readiness.drafter")
    tree["model"]["weights"] = "int8"
    prompts = trial_prompts(job_of(tree))
    assert len(prompts) == 4  # rows of the first file
    assert all(prompts)
    spec = replace(spec, weights="int8", quantise_output_head=True, trial_prompts=prompts)
    engine = load_engine(spec)
    assert engine.runner.model.lm_head.weight.dtype == torch.int8
    assert engine.report()["linear"] == "native"
    assert caplog.messages[0].startswith("drafts weights=int8 tokens_per_step=")


def test_prompts_for_a_trial_are_not_rendered_where_nothing_drafts_or_nothing_changes(tree):
    assert trial_prompts(job_of(tree)) == []
    tree["model"]["weights"] = "int8"
    tree["decode"]["mode"] = "autoregressive"
    assert trial_prompts(job_of(tree)) == []
