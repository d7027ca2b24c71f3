"""The sampled audit: which rows, what is compared, what a mismatch does."""

import asyncio
import json
from dataclasses import replace

import pytest

import pipelines.generate.audit.auditor as auditor_module
from orthrus_core import Completion, Request, SamplingParams
from orthrus_core.engine.flight import Flight
from orthrus_core.engine.stats import CompletionStats
from pipelines.generate.audit.auditor import Findings, compare
from pipelines.generate.audit.plan import HASHES, AuditPlan, plan_audit, row_hash
from pipelines.generate.audit.speed import LEAST_TOKENS, plain_step_s, time_pairs
from pipelines.generate.decode.actor import GenerateActor, load_engine
from pipelines.generate.engine.thread import EngineThread
from pipelines.read.columns import ENGINE
from tests.fakes import FakeEngine, disagreeing_engine, fake_engine, unverified_engine
from tests.pipelines.conftest import job_of
from tests.pipelines.generate.decode.test_actor import call, spec, unit  # noqa: F401

ALL = AuditPlan("f00", HASHES)


def plan_of(tree, **audit) -> AuditPlan:
    tree["audit"] = audit
    return plan_audit(job_of(tree))


def chosen(tree, plan) -> list:
    units = job_of(tree).plan.units
    places = [(one.shard, one.index, place) for one in units for place in range(one.num_rows)]
    return [place for place in places if plan.chooses(*place)]


def completion(tokens, logprobs=None, reason="stop", error=None):
    logprobs = [-0.5] * len(tokens) if logprobs is None else logprobs
    return Completion(0, tokens, reason, error, CompletionStats(), logprobs=logprobs)


def found(first, again) -> Findings:
    findings = Findings()
    compare(findings, {"id": "a", "sample": 0}, first, again)
    return findings


def timed(thread, requests, is_alone=True):
    return asyncio.run(time_pairs(thread, requests, busy_s=0.0, is_alone=lambda: is_alone))


def audits(actor, *tables) -> list[dict]:
    return [json.loads(table.column(ENGINE)[0].as_py())["audit"] for table in call(actor, *tables)]


def test_a_small_run_has_its_least_number_of_rows_chosen(tree):
    assert len(chosen(tree, plan_of(tree, fraction=0.01, min_rows=8))) == 8


def test_a_run_smaller_than_that_has_all_of_them_chosen(tree):
    assert len(chosen(tree, plan_of(tree, fraction=0.01, min_rows=100))) == 17


def test_a_large_share_is_chosen_by_its_fraction():
    plan = AuditPlan("key", int(0.25 * HASHES))
    count = sum(plan.chooses(0, unit, place) for unit in range(100) for place in range(100))
    assert 2300 < count < 2700  # 2,500 +- 43 (one standard deviation)


def test_the_same_run_chooses_the_same_rows_again(tree):
    assert plan_of(tree) == plan_of(tree)
    assert row_hash("key", 1, 2, 3) == row_hash("key", 1, 2, 3) != row_hash("other", 1, 2, 3)


@pytest.mark.parametrize(
    ("section", "key", "value"), [("audit", "enabled", False), ("decode", "mode", "autoregressive")]
)
def test_nothing_is_chosen_where_it_is_switched_off_or_ar_anyway(tree, section, key, value):
    tree[section] = tree.get(section, {}) | {key: value}
    assert plan_audit(job_of(tree)) == AuditPlan()


def test_the_same_text_and_bits_are_identical():
    findings = found(completion([1, 2, 3]), completion([1, 2, 3]))
    assert (findings.compared, findings.identical, findings.tokens, findings.mismatches) == (1, 1, 3, [])


def test_another_token_is_named_by_its_place():
    findings = found(completion([1, 2, 3]), completion([1, 5, 3]))
    assert findings.identical == findings.same_tokens == 0
    assert findings.mismatches == [
        {"id": "a", "sample": 0, "first_token": 1, "written": 2, "plain_ar": 5, "reason": "token"}
    ]


def test_a_text_that_goes_on_differs_where_the_other_ends():
    [row] = found(completion([1, 2]), completion([1, 2, 3])).mismatches
    assert (row["first_token"], row["written"], row["plain_ar"]) == (2, None, 3)


def test_another_bit_of_a_log_probability_is_a_mismatch_of_its_own():
    findings = found(completion([1, 2], [-0.5, -0.25]), completion([1, 2], [-0.5, -0.25000001]))
    assert (findings.same_tokens, findings.same_logprobs, findings.identical) == (1, 0, 0)
    assert (findings.mismatches[0]["first_token"], findings.mismatches[0]["reason"]) == (1, "log-probability")


def test_another_finish_reason_is_a_mismatch():
    [row] = found(completion([1]), completion([1], reason="length")).mismatches
    assert row["reason"] == "finish_reason length"


def test_the_last_call_decodes_the_rows_of_all_units_again(spec):  # noqa: F811
    actor = GenerateActor(replace(spec, audit=ALL), fake_engine)
    results = audits(actor, *(unit([[n], [n + 1]], index=n) for n in range(5)))
    assert [one["selected"] for one in results] == [2] * 5
    assert sum(one["compared"] for one in results) == sum(one["identical"] for one in results) == 10


def test_a_unit_that_comes_and_goes_while_speed_is_measured_is_decoded_again(spec, monkeypatch):  # noqa: F811
    actor = GenerateActor(replace(spec, audit=ALL), fake_engine)
    meanwhile = []

    async def pass_by(*_, **__):
        meanwhile.append(await actor(unit([[3], [4]], index=1)))

    monkeypatch.setattr(auditor_module, "time_pairs", pass_by)
    [first] = audits(actor, unit([[1], [2]]))
    second = json.loads(meanwhile[0].column(ENGINE)[0].as_py())["audit"]
    assert (first["selected"] + second["selected"], first["compared"] + second["compared"]) == (4, 4)


def test_rows_that_are_not_chosen_are_not_decoded_again(spec):  # noqa: F811
    key = next(str(n) for n in range(100) if AuditPlan(str(n), HASHES // 2).chooses(1, 0, 0))
    picky = AuditPlan(key, row_hash(key, 1, 0, 0) + 1)
    others = sum(picky.chooses(1, 0, place) for place in range(1, 6))
    [result] = audits(GenerateActor(replace(spec, audit=picky), fake_engine), unit([[5]] * 6))
    assert result["compared"] == 1 + others < 6


def test_rows_of_an_actor_that_disagrees_are_named(spec):  # noqa: F811
    actor = GenerateActor(replace(spec, audit=ALL), disagreeing_engine)
    [result] = audits(actor, unit([[5], None, [6]], errors=[None, "bad", None], limits=[9, None, 9], index=7))
    assert (result["compared"], result["identical"]) == (2, 0)
    assert [(row["id"], row["shard"], row["unit"]) for row in result["mismatches"]] == [
        ("r0", 1, 7),
        ("r2", 1, 7),
    ]
    assert [row["first_token"] for row in result["mismatches"]] == [5, 6]  # the last of 6 and of 7 tokens


def test_the_log_probabilities_asked_for_are_not_written(spec):  # noqa: F811
    [table] = call(GenerateActor(replace(spec, audit=ALL), fake_engine), unit([[5]]))
    assert "logprobs" not in table.column_names


def test_rows_of_the_rejection_rule_are_skipped_where_they_are_drawn(spec):  # noqa: F811
    plan = replace(ALL, is_drawn=True)
    drawn = replace(spec, audit=plan, sampling=spec.sampling.model_copy(update={"temperature": 1.0}))
    [result] = audits(GenerateActor(drawn, fake_engine), unit([[5], [6]]))
    assert (result["selected"], result["skipped"], result["compared"]) == (2, 2, 0)
    [greedy] = audits(GenerateActor(replace(spec, audit=plan), fake_engine), unit([[5], [6]]))
    assert (greedy["skipped"], greedy["compared"]) == (0, 2)


def test_a_real_engine_agrees_with_itself(spec):  # noqa: F811
    [result] = audits(
        GenerateActor(replace(spec, audit=ALL)), unit([[5, 6, 7], [300], [9] * 40], limits=[20] * 3)
    )
    assert (result["compared"], result["identical"]) == (3, 3)
    assert len(result["speed"][0]["pairs"]) >= 1


def test_a_verify_that_keeps_a_wrong_draft_is_found(spec, monkeypatch):  # noqa: F811
    land = Flight.land

    def careless(flight, runner):
        """Takes the first draft for agreed even where it is not."""
        verdicts, proposed_ids = land(flight, runner)
        for line, verdict in enumerate(verdicts):
            if flight.step.num_drafts[line] and not verdict.num_accepted:
                verdict.token_ids[0] = int(flight.rows.token_ids[flight.step.anchor_rows[line] + 1])
        return verdicts, proposed_ids

    monkeypatch.setattr(Flight, "land", careless)
    actor = GenerateActor(replace(spec, audit=ALL), load_engine)
    [result] = audits(actor, unit([[5, 6, 7], [300], [9] * 40], limits=[20] * 3))
    assert result["identical"] < result["compared"] == 3
    assert all(row["written"] != row["plain_ar"] for row in result["mismatches"])


def test_a_call_that_arrives_ends_the_waiting_for_the_audit_of_others(spec):  # noqa: F811
    class Slow(FakeEngine):
        """Without drafts it goes on for as long as ordinary work may come."""

        is_free = False

        def step(self):
            held = [] if self.is_free else [row for row in self.running if not row.request.drafts]
            done = super().step()
            for row in held:
                row.steps = 0
            return done

    engine = Slow(max_sequences=4)
    actor = GenerateActor(replace(spec, audit=ALL), lambda _: engine)

    async def both():
        first = asyncio.ensure_future(actor(unit([[59]], limits=[9], index=0)))
        while not any(not row.request.drafts for row in engine.running):
            await asyncio.sleep(0.01)
        assert not first.done()
        second = asyncio.ensure_future(actor(unit([[8]], index=1)))
        audit = json.loads((await first).column(ENGINE)[0].as_py())["audit"]
        engine.is_free = True
        return audit, json.loads((await second).column(ENGINE)[0].as_py())["audit"]

    first, second = asyncio.run(both())
    assert (first["selected"], first["compared"]) == (1, 0)
    assert (second["selected"], second["compared"], second["identical"]) == (1, 2, 2)


def test_pairs_are_timed_with_the_same_tokens_on_both_sides():
    thread = EngineThread(lambda: FakeEngine(max_sequences=4), on_broken=print)
    requests = [Request([n], SamplingParams(max_new_tokens=40)) for n in (100, 103)]
    sample = timed(thread, requests)
    assert (sample.sequences, sample.max_tokens) == (2, 40)
    assert 1 <= len(sample.pairs) <= 3
    assert all(consensus > 0 and plain > 0 for consensus, plain in sample.pairs)


def test_a_measurement_that_other_work_disturbs_is_thrown_away():
    thread = EngineThread(FakeEngine, on_broken=print)
    assert timed(thread, [Request([1], SamplingParams(max_new_tokens=40))], is_alone=False) is None


def test_a_measurement_that_does_not_fit_into_its_time_is_left_out():
    class Dear(FakeEngine):
        def report(self):
            return super().report() | {"verify_s": [1.0, 1.0]}

    thread = EngineThread(Dear, on_broken=print)
    requests = [Request([1], SamplingParams(max_new_tokens=LEAST_TOKENS))]
    assert timed(thread, requests) is None


def test_the_step_is_priced_at_the_smallest_budget_that_holds_the_batch():
    report = {"budgets": [4, 16, 64], "verify_s": [0.1, 0.2, 0.3]}
    assert [plain_step_s(report, count) for count in (4, 5, 64)] == [0.1, 0.2, 0.3]


def test_an_unverified_engine_may_disagree(spec):  # noqa: F811
    actor = GenerateActor(replace(spec, audit=ALL), unverified_engine)
    [result] = audits(actor, unit([[5]]))
    assert (result["compared"], result["identical"]) == (1, 0)
