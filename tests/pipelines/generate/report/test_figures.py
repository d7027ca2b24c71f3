"""Figures of a run, by hand."""

import json
from pathlib import Path

import pytest

from pipelines.generate.report.figures import RunTimes, run_report
from pipelines.generate.report.html import html_report
from pipelines.generate.report.store import finish_run
from pipelines.generate.report.terminal import figures_table
from pipelines.generate.report.verdict import drafting_note, is_mismatch, mismatch_reason, prompt_note
from pipelines.generate.write.id_hashes import hash_ids
from pipelines.generate.write.sums import RunSums
from tests.pipelines.conftest import job_of
from tests.pipelines.generate.report.conftest import facts, shown, summary, sums_of

WRONG = {"id": "r7", "sample": 0, "shard": 0, "unit": 1, "first_token": 3, "written": 5, "plain_ar": 6}
WRONG |= {"reason": "token"}


def report_of(tree, *units, manifest=None, times=None):
    job = job_of(tree)
    return job, run_report(job, sums_of(*units), times or RunTimes(), manifest)


def test_sums_are_over_all_units_of_this_session_and_earlier_ones(report):
    assert (report["rows"], report["errors"], report["completion_tokens"], report["units"]) == (16, 4, 120, 4)
    assert report["finish_reasons"] == {"error": 4, "stop": 12}


def test_both_ratios_leave_out_the_tokens_of_prefill(report):
    assert (report["acceptance_length"], report["tokens_per_forward"]) == (3.0, 1.5)


def test_speed_is_that_of_this_session_and_of_its_actors_last_figures(report):
    run = report["this_run"]
    assert (run["rows"], run["completion_tokens"], run["actors"]) == (12, 90, 2)
    assert run["engine_s"] == 14.0
    assert run["tokens_per_s"] == pytest.approx(90 / 20)
    assert run["engine_tokens_per_s"] == pytest.approx(90 * 2 / 14)
    assert run["outside_engine_share"] == pytest.approx(1 - 14 / 40)
    assert run["idle_when_ready_share"] == pytest.approx(1 - 14 / 20)


def test_drafts_by_position_are_those_of_all_units(report):
    assert (report["drafted_by_position"], report["accepted_by_position"]) == ([16, 16], [12, 4])


def test_the_parts_of_the_time_split_are_the_wall_time(report):
    split = report["this_run"]["time_split"]
    assert (split["Ray start"], split["model load"], split["engine"]) == (3.0, 2.0, 7.0)
    assert sum(split.values()) == pytest.approx(20.0)


def test_an_engine_that_counts_its_seconds_by_kind_has_them_split(tree):
    times = RunTimes(wall_s=20.0)
    one = summary("a", 10.0, 10.0)
    one["engine"] |= {"seconds": {"draft": 3.0, "verify": 4.0, "prefill": 1.0}}
    times.add(one)
    split = report_of(tree, times=times)[1]["this_run"]["time_split"]
    assert [split[name] for name in ("draft", "verify", "prefill", "other engine work")] == [
        3.0,
        4.0,
        1.0,
        2.0,
    ]


def test_lengths_and_groups_have_their_own_ratios(report):
    [bucket] = report["by_length"]
    assert (bucket["from"], bucket["to"], bucket["rows"]) == (9, 16, 16)
    assert (bucket["acceptance_length"], bucket["mean_tokens"]) == (3.0, 120 / 12)
    assert [(one["value"], one["rows"]) for one in report["by_group"]["domain"]] == [("math", 16)]


def test_at_most_20_groups_are_named_and_the_others_are_one(tree):
    _, report = report_of(tree, *(facts(value=f"v{n:02}") for n in range(25)), facts(value="v24"))
    groups = report["by_group"]["domain"]
    assert len(groups) == 21
    assert (groups[0]["value"], groups[0]["rows"]) == ("v24", 8)
    assert (groups[-1]["value"], groups[-1]["rows"]) == ("(other)", 20)


def test_speed_over_time_counts_a_units_tokens_between_the_unit_before_and_its_end(report):
    speed = report["speed_over_time"]
    assert speed["bin_s"] * len(speed["tokens_per_s"]) == pytest.approx(40.0)
    assert speed["tokens_per_s"] == pytest.approx([3.0] * len(speed["tokens_per_s"]))


def test_the_time_between_two_sessions_is_left_out(tree):
    later = facts(1) | {"session": 9000.0, "began": 9000.0, "at": 9020.0}
    speed = report_of(tree, facts(0), later)[1]["speed_over_time"]
    assert speed["bin_s"] * len(speed["tokens_per_s"]) == pytest.approx(30.0)
    assert speed["sessions"] == [0.0, 10.0]
    assert sum(speed["tokens_per_s"]) * speed["bin_s"] == pytest.approx(60)
    assert (speed["tokens_per_s"][0], speed["tokens_per_s"][-1]) == (pytest.approx(3.0), pytest.approx(1.5))


def test_a_clock_behind_the_drivers_loses_no_tokens(tree):
    speed = report_of(tree, facts(0) | {"began": 900.0, "at": 950.0}, facts(1))[1]["speed_over_time"]
    assert sum(speed["tokens_per_s"]) * speed["bin_s"] == pytest.approx(60)


def test_cost_counts_every_actors_hours(tree):
    tree["report"] = {"gpu_hour_price": 3.6, "currency": "EUR"}
    tree["run"]["actors"] = 2
    cost = report_of(tree, facts(0))[1]["cost"]  # 10 s of 2 actors: 2 cents for 30 tokens
    assert cost["total"] == pytest.approx(0.02)
    assert cost["per_million_tokens"] == pytest.approx(0.02 / 30 * 1e6)
    assert cost["currency"] == "EUR"


def test_no_price_no_cost(report):
    assert report["cost"] is None


def test_errors_of_a_kind_keep_three_examples(report):
    [(kind, entry)] = report["error_kinds"].items()
    assert (kind, entry["count"]) == ("prompt is null", 4)
    assert [one["id"] for one in entry["examples"]] == ["r0", "r1", "r2"]


def test_the_audit_is_added_up_over_units(tree):
    speed = {"sequences": 8, "max_tokens": 64, "pairs": [[200.0, 100.0], [300.0, 100.0], [500.0, 100.0]]}
    first = {"selected": 3, "skipped": 1, "compared": 0, "identical": 0, "seconds": 0.0}
    last = {"selected": 2, "skipped": 0, "compared": 3, "identical": 3, "seconds": 2.0, "speed": [speed]}
    audit = report_of(tree, facts(audit=first), facts(audit=last))[1]["audit"]
    assert (audit["selected"], audit["compared"], audit["identical"], audit["lost"]) == (5, 3, 3, 1)
    assert audit["speed_ratio"] == {"median": 3.0, "min": 2.0, "max": 5.0, "pairs": 3}
    assert audit["seconds"] == 2.0


@pytest.mark.parametrize(
    ("level", "enabled", "verdict"),
    [("exact", True, True), ("unverified", True, False), ("exact", False, False)],
)
def test_a_mismatch_counts_where_the_engine_says_exact_and_nobody_accepted_it(tree, level, enabled, verdict):
    tree["audit"] = {"enabled": enabled}
    found = {"selected": 2, "compared": 2, "identical": 1, "mismatches": [WRONG]}
    job, report = report_of(tree, facts(audit=found), manifest={"engine": {"exactness": level}})
    assert is_mismatch(job, report) is verdict
    assert "1 of 2 rows differ" in mismatch_reason(report)
    assert "r7[0] from token 3" in mismatch_reason(report)


def test_ar_mode_has_nothing_to_audit(tree):
    tree["decode"]["mode"] = "autoregressive"
    assert report_of(tree, facts())[1]["audit"] == {
        "note": "nothing to audit: decode.mode is autoregressive already"
    }


def test_the_alarm_of_one_actor_is_the_runs(tree, report):
    assert report["this_run"]["drafter_alarm"] is False
    alarmed = summary("b", 1.0, 1.0)
    alarmed["engine"]["drafter_alarm"] = True
    times = RunTimes(wall_s=20.0)
    for one in (summary("a", 1.0, 1.0), alarmed):
        times.add(one)
    assert report_of(tree, times=times)[1]["this_run"]["drafter_alarm"] is True


def test_a_run_that_had_nothing_to_do_divides_by_nothing(tree):
    report = report_of(tree)[1]
    assert report["this_run"]["tokens_per_s"] is None
    assert report["this_run"]["outside_engine_share"] is None
    assert (report["speed_over_time"], report["this_run"]["time_split"]) == ({}, {})


def test_units_of_earlier_versions_count_with_what_they_have(tree):
    report = report_of(tree, {"counts": {"rows": 4, "errors": 0}, "rows": 4})[1]
    assert (report["rows"], report["by_length"], report["audit"]["selected"]) == (4, [], 0)


def test_the_report_is_json(report, ugly):
    for one in (report, ugly):
        assert json.loads(json.dumps(one)) == one


def test_sums_do_not_grow_with_the_values_of_a_column():
    sums = RunSums()
    for n in range(3000):
        sums.add(facts(value=f"v{n}"))
    assert len(sums.groups["domain"]) <= 2001
    assert sum(one["rows"] for one in sums.groups["domain"].values()) == 12_000


@pytest.mark.parametrize(("share", "code"), [(0.25, 0), (0.24, 1), (1.0, 0)])
def test_more_error_rows_than_allowed_fail_the_run_with_their_reasons(tree, share, code, caplog):
    tree["run"]["max_error_share"] = share
    job = job_of(tree)
    report = finish_run(job, sums_of(facts(0), facts(1)), RunTimes())
    assert report["exit_code"] == code
    assert (job.ledger.finished_report() is None) == bool(code)
    stored = json.loads(Path(job.ledger.run_url, "report.json").read_text())
    assert (stored["status"], stored["exit_code"]) == ("failed" if code else "done", code)
    if code:
        assert "2 of 8 rows are error rows" in report["reason"]
        assert "2 x prompt is null (row r0)" in report["reason"]
        assert report["reason"] in caplog.text


def test_a_run_that_lost_its_success_to_error_rows_has_it_again_when_they_are_allowed(tree):
    for share, is_done in ((1.0, True), (0.0, False), (0.5, True)):
        tree["run"]["max_error_share"] = share
        job = job_of(tree)
        finish_run(job, sums_of(facts()), RunTimes())
        assert (job.ledger.finished_report() is not None) == is_done


def test_rows_that_share_an_id_are_counted_over_all_units_and_warned_of(tree, caplog):
    units = [facts(n) | {"ids": hash_ids(["a", f"b{n}"], 1.0)} for n in range(3)]
    job = job_of(tree)
    assert finish_run(job, sums_of(*units), RunTimes())["duplicate_ids"] == 2
    assert "2 rows with an id (input.id_column) that an earlier row has" in caplog.text


def test_drafting_that_the_policy_stopped_is_told_with_what_the_head_accepts(tree):
    unit = facts() | {"positions": {"drafted": [2, 2], "accepted": [1, 1]}}  # 2 of 9 steps drafted
    _, report = report_of(tree, unit)
    assert report["drafting"] == {"share": pytest.approx(2 / 9), "accepted": 1.0}
    assert (
        "off in 78 % of the steps, where it would not have paid: 1.00 drafts (2.00 tokens) stand"
        in drafting_note(report)
    )
    assert drafting_note(report) in shown(figures_table(report))
    assert drafting_note(report) in html_report(report)


def test_a_head_that_drafts_most_steps_and_a_plain_run_have_no_such_note(tree):
    busy = facts() | {"positions": {"drafted": [5, 5], "accepted": [4, 1]}}
    assert drafting_note(report_of(tree, busy)[1]) is None
    tree["decode"]["mode"] = "autoregressive"
    assert drafting_note(report_of(tree, facts())[1]) is None


@pytest.mark.parametrize(
    ("cached", "said"), [(0, "12,000"), (5160, "12,000, 43 % of them found in the cache")]
)
def test_prompt_tokens_tell_how_many_were_in_the_cache(cached, said):
    assert prompt_note({"prompt_tokens": 12_000, "cached_tokens": cached}) == said
