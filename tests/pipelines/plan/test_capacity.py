import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from orthrus_core.errors import ConfigError
from pipelines.config import load_config
from pipelines.generate.config import GenerateConfig
from pipelines.generate.job import prepare
from pipelines.plan.capacity import plan_capacity
from pipelines.plan.config import PlanConfig, Presets
from pipelines.plan.job import capacity
from pipelines.plan.report import render_capacity
from pipelines.plan.workload import sample_prompts

ROOT = Path(__file__).parents[3]


@pytest.fixture
def plan_of(tree, tmp_path):
    """A plan of the small job (17 rows in 5 units), with values over it."""

    def load(**section) -> PlanConfig:
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
        traffic = section.pop("traffic", {"text": {"tokens_per_step": 3.0}})
        job = {"config": str(tmp_path / "job.yaml"), "gpus": [1, 2, 64], "startup_s": 3600.0} | section
        fields = {"presets": ROOT / "configs/plan/presets.yaml", "hardware": "rtx-4090"}
        return PlanConfig.model_validate(fields | {"traffic": traffic, "job": job})

    return load


def test_rows_and_units_come_from_the_shards_and_prompt_lengths_from_their_rows(plan_of, tree):
    found = capacity(plan_of())
    assert (found.work.rows, len(found.job.units)) == (17, 5)
    job = prepare(GenerateConfig.model_validate(tree))
    everything = sample_prompts(job, max_rows=1000, max_shards=1000)
    assert everything.rows == 8  # the first unit, 4 rows, of both files that have rows
    assert everything.longest >= everything.p95 >= everything.mean > 5


def test_finished_units_are_not_planned_again(plan_of, tree):
    job = prepare(GenerateConfig.model_validate(tree))
    begun = replace(job, units=job.units[2:])
    config = plan_of()
    hardware = load_config(Presets, config.presets).device("rtx-4090")
    found = plan_capacity(config.job, begun, hardware, config.curves(4), device_type="cuda")
    assert found.work.rows == 17 - 4 - 3  # the first file's 7 rows are done


def test_without_a_length_completions_count_as_long_as_the_config_allows(plan_of):
    assert capacity(plan_of()).is_upper_bound
    assert capacity(plan_of()).work.completion_tokens == 24
    given = capacity(plan_of(completion_tokens=9.5))
    assert (given.is_upper_bound, given.work.completion_tokens) == (False, 9.5)


def _report(tmp_path: Path, **changed) -> str:
    report = {
        "rows": 11,
        "errors": 1,
        "completion_tokens": 150,
        "accepted_by_position": [8, 4],
        "drafted_by_position": [10, 10],
    }
    (tmp_path / "earlier/_run").mkdir(parents=True)
    (tmp_path / "earlier/_run/report.json").write_text(json.dumps(report | changed))
    return str(tmp_path / "earlier")


def test_an_earlier_run_gives_lengths_and_acceptance(plan_of, tmp_path):
    found = capacity(plan_of(earlier_run=_report(tmp_path), traffic={}))
    assert found.work.completion_tokens == 15  # of the 10 rows without an error
    # survival .8, .4: a step emits 1, 1.8 or 2.2 tokens, at most that many times AR on any device
    assert 1.0 <= found.time.tokens_per_s / found.time.ar_tokens_per_s <= 2.2


def test_an_earlier_run_without_a_report_or_a_completion_is_refused(plan_of, tmp_path):
    with pytest.raises(ConfigError, match=r"job.earlier_run: .*nothing holds no _run/report.json"):
        capacity(plan_of(earlier_run=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match=r"job.earlier_run: .* has no completion"):
        capacity(plan_of(earlier_run=_report(tmp_path, rows=1)))


def test_drafting_without_any_word_on_acceptance_is_refused(plan_of):
    with pytest.raises(ConfigError, match="traffic is required"):
        capacity(plan_of(traffic={}))


def test_hours_are_the_start_the_shared_work_and_half_a_unit_and_cost_every_gpu(plan_of):
    found = capacity(plan_of(price_per_gpu_hour=2.0))
    one, two, many = found.fleets
    work_h = found.time.total_s / 3600
    assert one.hours == pytest.approx(1.0 + work_h)
    assert two.hours == pytest.approx(1.0 + work_h / 2 + work_h / 5 / 2)
    assert many.hours == pytest.approx(1.0 + work_h / 5 + work_h / 5 / 2)  # no more actors than units work
    assert many.price == pytest.approx(64 * many.hours * 2.0)


def test_a_deadline_gets_the_fewest_gpus_that_meet_it(plan_of):
    work_s = capacity(plan_of()).time.total_s
    # start 0; 3 actors: a third of the work and half a unit
    within = (work_s / 3 + work_s / 10) / 3600
    found = capacity(plan_of(startup_s=0.0, deadline_h=within * 1.0001))
    assert found.deadline is not None
    assert found.deadline.gpus == 3
    assert capacity(plan_of(startup_s=0.0, deadline_h=within * 0.9999)).deadline.gpus == 4


def test_a_deadline_before_the_start_is_over_is_met_by_nobody(plan_of):
    found = capacity(plan_of(startup_s=3600.0, deadline_h=0.9))
    assert found.deadline is None
    text = _text(plan_of(deadline_h=0.9), found)
    assert "GPUs to end within 54 min: no number is enough" in text


def test_several_gpus_of_an_actor_are_counted(plan_of, tree):
    tree["run"]["gpus_per_actor"] = 2.0
    config = plan_of(price_per_gpu_hour=2.0)
    found = capacity(config)
    assert [fleet.actors for fleet in found.fleets] == [0, 1, 32]
    assert (found.fleets[0].hours, found.fleets[0].price) == (math.inf, None)
    assert re.search(r"1\W+0\W+-\W+-\W", _text(config, found))


def test_actors_on_one_gpu_share_its_time(plan_of, tree):
    alone = capacity(plan_of()).fleets
    tree["run"]["gpus_per_actor"] = 0.5
    shared = capacity(plan_of()).fleets
    assert [fleet.actors for fleet in shared] == [2, 4, 128]
    assert [fleet.hours for fleet in shared] == [fleet.hours for fleet in alone]


def _text(config: PlanConfig, found) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_capacity(config, found))
    return console.export_text()


def test_the_report_names_rows_memory_speed_hours_and_price(plan_of):
    config = plan_of(price_per_gpu_hour=2.0, deadline_h=2)
    found = capacity(config)
    text = _text(config, found)
    assert "17 in 3 files, 17 in 5 units to do" in text
    assert "24 each, the most that sampling.max_new_tokens allows; 408 in all" in text
    assert f"{found.sequences_fit:,} would fit" in text
    assert f"{found.time.tokens_per_s:,.0f} tokens/s" in text
    assert f"GPUs to end within 2.0 h: 1 ({math.ceil(found.fleets[0].hours * 60 - 0.5)} min" in text


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("model=qwen3-4b", "must have either model or job"),
        ("job.completion_tokens=0", "job.completion_tokens must be > 0.0, got 0"),
        ("job.earlier_run=s3://key:secret@bucket/run", "credentials"),
    ],
)
def test_a_bad_plan_is_refused(override, text):
    with pytest.raises(ConfigError, match=text):
        load_config(PlanConfig, ROOT / "configs/plan/job-demo.yaml", [override])


@pytest.mark.parametrize("name", ["job-demo", "job-qwen3-1.7b"])
def test_shipped_plans_load_and_their_jobs_too(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(PlanConfig, f"configs/plan/{name}.yaml")
    load_config(GenerateConfig, config.job.config, config.job.set)
