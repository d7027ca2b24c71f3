"""Figures of a run, by hand."""

import pytest

from pipelines.generate.config import GenerateConfig
from pipelines.generate.job import prepare
from pipelines.generate.report import RunTimes, data_card, run_report

UNIT = {
    "rows": 4,
    "errors": 1,
    "completion_tokens": 30,
    "prompt_tokens": 50,
    "step_tokens": 27,
    "steps": 9,
    "forwards": 18,
    "finish_stop": 3,
    "finish_error": 1,
}


def summary(actor: str, busy_s: float, ready_s: float) -> dict:
    engine = {"busy_s": busy_s, "accepted_by_position": [3, 1], "drafted_by_position": [4, 4]}
    return {"actor": actor, "load_s": 2.0, "ready_s": ready_s, "engine": engine, "rows": 4, "counts": UNIT}


@pytest.fixture
def job(tree):
    return prepare(GenerateConfig.model_validate(tree))


@pytest.fixture
def report(job):
    times = RunTimes(wall_s=20.0, ray_s=3.0)
    for one in (summary("a", 4.0, 5.0), summary("a", 8.0, 10.0), summary("b", 6.0, 10.0)):
        times.add(one)
    return run_report(job, [UNIT] * 4, times, {"exactness": "exact"})


def test_sums_are_over_all_units_of_this_run_and_earlier_ones(report):
    assert (report["rows"], report["errors"], report["completion_tokens"]) == (16, 4, 120)
    assert report["finish_reasons"] == {"error": 4, "stop": 12}


def test_both_ratios_leave_out_the_tokens_of_prefill(report):
    assert (report["acceptance_length"], report["tokens_per_forward"]) == (3.0, 1.5)


def test_speed_is_that_of_this_run_and_of_its_actors_last_figures(report):
    run = report["this_run"]
    assert (run["rows"], run["completion_tokens"], run["actors"]) == (12, 90, 2)
    assert run["engine_s"] == 14.0
    assert run["tokens_per_s"] == pytest.approx(90 / 20)
    assert run["engine_tokens_per_s"] == pytest.approx(90 * 2 / 14)
    assert run["outside_engine_share"] == pytest.approx(1 - 14 / 40)
    assert run["idle_when_ready_share"] == pytest.approx(1 - 14 / 20)
    assert run["accepted_by_position"] == [6, 2]


def test_the_alarm_of_one_actor_is_the_runs(job, report):
    assert report["this_run"]["drafter_alarm"] is False
    alarmed = summary("b", 1.0, 1.0)
    alarmed["engine"]["drafter_alarm"] = True
    times = RunTimes(wall_s=20.0)
    for one in (summary("a", 1.0, 1.0), alarmed):
        times.add(one)
    assert run_report(job, [UNIT] * 2, times, None)["this_run"]["drafter_alarm"] is True


def test_a_run_that_had_nothing_to_do_divides_by_nothing(job):
    report = run_report(job, [UNIT], RunTimes(), None)
    assert report["this_run"]["tokens_per_s"] is None
    assert report["this_run"]["outside_engine_share"] is None


def test_the_data_card_names_the_data_files_and_every_column(job, report):
    card = data_card(job, report)
    assert "data_files: data/*.parquet" in card
    for name in job.layout.output.names:
        assert f"| {name} | " in card
