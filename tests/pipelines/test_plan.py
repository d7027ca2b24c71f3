import io
import itertools
import json
from dataclasses import replace

import pytest
from rich.console import Console

from orthrus_core import Engine, load_model
from orthrus_core.engine.sequence import Completion
from orthrus_core.engine.stats import CompletionStats
from orthrus_core.errors import ConfigError
from orthrus_core.request import Request, SamplingParams
from pipelines import plan
from pipelines.generate.job.job import prepare
from pipelines.generate.job.sizes import choose_sizes, memory_here
from pipelines.plan import EFFICIENCY, OVERHEAD_S, Card, PlanConfig, Sample, Schedule, forward_s, plan_job
from tests.orthrus_core.evaluation.shapes import TINY

ENDLESS = {"bytes_per_s": 1e30, "flops_per_s": 1e30, "memory_bytes": 1e9}  # a forward takes OVERHEAD_S


@pytest.fixture
def plan_of(tree):
    """A plan for the small job: 17 rows in 5 units, 7 and 10 of them in two of three files."""

    def build(**section) -> PlanConfig:
        return PlanConfig.model_validate(tree | {"plan": section})

    return build


def _text(shown) -> str:
    console = Console(width=500, record=True, file=io.StringIO())
    console.print(shown)
    return " ".join(console.export_text().split())


def test_a_plan_names_every_figure_and_what_it_rests_on(plan_of, tree):
    tree["report"] = {"gpu_hour_price": 7200.0, "currency": "EUR"}
    tree["model"]["device"] = "auto"
    text = _text(plan_job(plan_of(card=ENDLESS, startup_s=3600, deadline_h=1.5)))
    assert "17 of 17 the files' metadata" in text
    assert "8 rows tokenized, 0 of them error rows" in text  # the first unit of both files with rows
    assert "24 tokens x 17 = 408 sampling.max_new_tokens: the most there can be" in text
    assert "fits in 90% of the device, 900.0 MB" in text
    assert "formula, not measured: 70% of 1e+18 TB/s and 1e+18 TFLOP/s, plain AR" in text
    assert "1 1 1:00:00 7,200" in text
    assert "4 4 1:00:00 28,800" in text
    assert "To end within 1:30:00: actors 1, GPUs 1, time 1:00:00, price 7,200" in text


def test_a_finished_job_has_nothing_left_to_plan(plan_of, tree, monkeypatch):
    done = replace(prepare(plan_of()), units=())
    monkeypatch.setattr(plan, "prepare", lambda config: done)
    assert "Nothing is left to do: all 17 rows are finished" in _text(plan_job(plan_of(card="h100")))


def test_finished_units_are_not_planned_again(plan_of, monkeypatch):
    job = prepare(plan_of())
    begun = replace(job, units=job.units[2:])  # the first file's 7 rows are done
    monkeypatch.setattr(plan, "prepare", lambda config: begun)
    text = _text(plan_job(plan_of(card="l4", completion_tokens=9)))
    assert "10 of 17" in text
    assert "9 tokens x 10 = 90 plan.completion_tokens" in text


def test_several_completions_of_a_row_all_count(plan_of, tree):
    tree["sampling"] |= {"n": 3, "temperature": 1.0}
    assert "24 tokens x 51 = 1,224" in _text(plan_job(plan_of(card="h200")))


def test_rows_that_make_no_prompt_are_named(plan_of, tree):
    tree["decode"]["max_context"] = 4
    with pytest.raises(ConfigError, match="none of 8 sampled rows makes a prompt: prompt has"):
        plan_job(plan_of(card="h100"))


def test_an_earlier_run_gives_speed_and_length(plan_of, tmp_path):
    text = _text(plan_job(plan_of(earlier_run=_report(tmp_path))))
    assert "15 tokens x 17 = 255 measured with the speed" in text  # 150 of the 10 rows without an error
    assert "5 tokens/s" in text  # 100 in 20 s
    assert "0:00:51 of one actor" in text
    assert " 1 0 0:02:51 -" in text  # on a cpu: no GPU


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"errors": 11}, "has no completions: 11 of 11 rows are errors"),
        ({"this_run": {"completion_tokens": 0, "engine_s": 0, "audit_s": 0}}, "last session made no tokens"),
        ({"this_run": None}, "is no report of a generate run"),
    ],
)
def test_a_report_that_tells_no_speed_is_refused(changed, message, plan_of, tmp_path):
    with pytest.raises(ConfigError, match=rf"plan.earlier_run: .*earlier/_run/report.json.*{message}"):
        plan_job(plan_of(earlier_run=_report(tmp_path, **changed)))


def test_a_run_without_a_report_is_refused(plan_of, tmp_path):
    with pytest.raises(ConfigError, match=r"nothing/_run/report.json does not exist"):
        plan_job(plan_of(earlier_run=str(tmp_path / "nothing")))


def _report(tmp_path, **changed) -> str:
    report = {
        "rows": 11,
        "errors": 1,
        "completion_tokens": 150,
        "this_run": {"completion_tokens": 100, "engine_s": 18.0, "audit_s": 2.0},
        "engine": {"device": "cpu"},
    }
    (tmp_path / "earlier/_run").mkdir(parents=True)
    (tmp_path / "earlier/_run/report.json").write_text(json.dumps(report | changed))
    return str(tmp_path / "earlier")


def test_time_is_the_start_the_shared_work_and_half_a_unit():
    schedule = Schedule(work_s=1000.0, units=5, startup_s=60.0)
    assert [schedule.seconds(actors) for actors in (1, 2, 5, 64)] == [1060, 660, 360, 360]


@pytest.mark.parametrize(
    ("deadline_s", "actors"), [(1060, 1), (1059, 2), (660, 2), (659, 3), (360, 5), (359, None)]
)
def test_a_deadline_gets_the_fewest_actors_that_meet_it(deadline_s, actors):
    assert Schedule(work_s=1000.0, units=5, startup_s=60.0).actors_within(deadline_s) == actors


def test_a_forward_takes_the_larger_of_bytes_and_flops_over_what_is_reached():
    # TINY: 744 bytes and 2088 FLOPs of 3 rows, 2 sequences and 10 positions
    slow_memory, slow_matrices = _card(bytes_per_s=744.0), _card(flops_per_s=2088.0)
    for card in (slow_memory, slow_matrices):
        seconds = forward_s(card, TINY, rows=3, sequences=2, context=10)
        assert seconds == pytest.approx(1 / EFFICIENCY + OVERHEAD_S)


def test_the_formula_takes_the_best_number_of_drafts_and_adds_prompts(plan_of):
    config = plan_of(acceptance_length=3.0, card=ENDLESS)
    job = prepare(config)
    sample = Sample(2, [10, 30], [Request([1] * n, SamplingParams(max_new_tokens=40)) for n in (10, 30)])
    speed = plan.card_speed(_card(), job, sample, config.plan)
    # 4 sequences emit 3 tokens each in two forwards; T is 4,096 rows, a prompt has 20
    assert speed.tokens_per_s == pytest.approx(40 / (40 * 2 / 12 + 20 / 4096) / OVERHEAD_S)
    assert "3.0 tokens per step by 8 drafts" in speed.rests_on
    in_bytes = config.model.model_copy(update={"weights": "int8"})
    slow_memory = {"bytes_per_s": 1e6}
    whole, half = (
        plan.card_speed(_card(**slow_memory), replace(job, config=one), sample, config.plan).tokens_per_s
        for one in (config, config.model_copy(update={"model": in_bytes}))
    )
    assert half > 1.3 * whole  # of float32 weights a quarter, but for the output head and the cache
    dear_rows = plan.card_speed(_card(flops_per_s=1e6), job, sample, config.plan)
    assert "plain AR" in dear_rows.rests_on


def _card(**numbers: float) -> Card:
    return Card(**ENDLESS | numbers)


def test_weights_and_cache_are_those_of_a_real_engine(plan_of, tree):
    job = prepare(plan_of())
    sizes = choose_sizes(job.config, job.checkpoint, "cpu", memory_here("cpu"))
    model = load_model(tree["model"]["path"])
    off = {"self_check": False, "compile": "off"}
    cache = Engine(model, job.config.decode.model_copy(update=off)).cache
    assert sizes.plan.model == sum(p.numel() * p.element_size() for p in model.parameters())
    assert sizes.plan.cache + sizes.plan.branches == sum(
        t.numel() * t.element_size() for t in (*cache.keys, *cache.values)
    )
    assert sizes.plan.logits == 64 * 1024 * (2 * 4 + 8)  # T x V x (both views and two copies in FP32)
    assert sizes.page_bytes == 16 * cache.bytes_per_token


class FakeEngine:
    """Ends one request a step with 3 tokens, or with an error."""

    def __init__(self, error: str | None = None):
        self.error, self.waiting, self.most, self.emitted, self.forgotten = error, [], 0, 0, 0

    def submit(self, request):
        self.waiting.append(request)

    def forget_prompts(self):
        self.forgotten += 1

    def step(self):
        self.most = max(self.most, len(self.waiting))
        self.waiting.pop(0)
        self.emitted += 0 if self.error else 3
        return [Completion(0, [], "error" if self.error else "stop", self.error, CompletionStats())]

    def report(self):
        return {"emitted_tokens": self.emitted}


def _trial(monkeypatch, engine):
    ticks = itertools.count()
    monkeypatch.setattr(plan.time, "perf_counter", lambda: float(next(ticks)))
    sample = Sample(4, [1] * 4, [Request([1])] * 4)
    return plan.run_trial(engine, sample, 10.0, in_flight=6)


def test_a_trial_keeps_the_engine_full_and_counts_its_tokens(monkeypatch):
    engine = FakeEngine()
    speed = _trial(monkeypatch, engine)
    assert (speed.tokens_per_s, speed.completion_tokens) == (27 / 10, 3)  # 9 steps until the clock says 10
    assert engine.most == 6
    assert engine.forgotten == 4  # 14 requests, 4 in a round


def test_a_trial_without_tokens_says_why(monkeypatch):
    with pytest.raises(ConfigError, match="plan.trial_s: no token in 10 s: too long"):
        _trial(monkeypatch, FakeEngine("too long"))


def test_a_trial_loads_what_the_jobs_actors_load_adapter_and_all(plan_of, monkeypatch):
    specs, adapter = [], object()
    monkeypatch.setattr(plan, "load_engine", specs.append)
    monkeypatch.setattr(plan, "run_trial", lambda *_, **options: plan.Speed(1.0, 1.0, "a trial"))
    plan.trial_speed(replace(prepare(plan_of()), adapter=adapter), Sample(1, [1], []), 0.1)
    assert specs[0].adapter is adapter


def test_without_a_source_the_jobs_own_engine_is_tried(plan_of, tree):
    tree["decode"] |= {"self_check": False, "compile": "off"}
    assert "trial on this machine:" in _text(plan_job(plan_of(trial_s=0.2)))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"card": "h300"}, "must be h100, h200, a100, l4 or three numbers, got h300"),
        ({"card": "h100", "earlier_run": "x"}, "at most one of earlier_run and card"),
        ({"earlier_run": "s3://key:secret@bucket/run"}, "credentials"),
    ],
)
def test_a_bad_plan_is_refused(section, message, plan_of):
    with pytest.raises(ValueError, match=message):
        plan_of(**section)


def test_more_tokens_per_step_than_a_block_are_refused(plan_of):
    with pytest.raises(ConfigError, match="plan.acceptance_length: tokens per step must be between 1 and 9"):
        plan_job(plan_of(card="h100", acceptance_length=10))
