"""Health: a drafter that gains nothing is reported once; broken logits end a request, or the engine."""

import logging

import pytest
import torch

from orthrus_core import Engine, EngineConfig, EngineError, Request, SamplingParams
from orthrus_core.attention.rows import LINES
from orthrus_core.models.readout import read_out
from orthrus_core.readiness.health import DraftAlarm
from tests.drafts import ChangedDrafts
from tests.small_models import small_orthrus

V = 97


def counted(alarm: DraftAlarm, steps: int, accepted_per_step: float) -> DraftAlarm:
    """Ten sequences at a time."""
    for _ in range(steps // 10):
        alarm.count(10, round(accepted_per_step * 10))
    return alarm


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_the_alarm_waits_for_a_full_window(caplog):
    alarm = counted(DraftAlarm(), 1990, 0.0)
    assert (alarm.is_on, warnings(caplog)) == (False, [])
    alarm.count(10, 0)
    assert alarm.is_on
    [message] = warnings(caplog)
    assert message.startswith("drafter_alarm tokens_per_step=1.000 steps=2000: drafts hardly ever stand")


def test_the_alarm_warns_once_while_it_is_on(caplog):
    counted(DraftAlarm(), 20_000, 0.0)
    assert len(warnings(caplog)) == 1


def test_drafts_that_stand_now_and_then_raise_no_alarm():
    alarm = counted(DraftAlarm(), 4000, 0.1)
    assert alarm.tokens_per_step == pytest.approx(1.1)
    assert not alarm.is_on


def test_the_window_forgets_what_lies_behind_it():
    alarm = counted(counted(DraftAlarm(), 10_000, 3.0), 2000, 0.0)
    assert alarm.is_on
    assert alarm.tokens_per_step == 1.0


def test_the_alarm_goes_off_only_when_drafting_clearly_gains_and_may_warn_again(caplog):
    alarm = counted(DraftAlarm(), 2000, 0.0)
    assert counted(alarm, 2000, 0.1).is_on
    assert not counted(alarm, 2000, 0.3).is_on
    assert counted(alarm, 4000, 0.0).is_on
    assert len(warnings(caplog)) == 2


def test_steps_without_drafts_do_not_count():
    alarm = DraftAlarm()
    alarm.count(0, 0)
    assert alarm.tokens_per_step is None


def test_a_head_that_does_not_fit_raises_the_alarm_in_the_report():
    config = EngineConfig(max_context=64, block_policy="fixed", self_check=False)
    model, prompts = small_orthrus(), [[n] for n in range(8)]
    params = SamplingParams(max_new_tokens=40, temperature=1.0)
    engine = Engine(model, config)
    emitted = {token for completion in engine.generate(prompts, params) for token in completion.token_ids}
    assert engine.report()["drafter_alarm"] is False
    never_emitted = next(token for token in range(V) if token not in emitted)
    useless = Engine(model, config, draft=ChangedDrafts(lambda work, drafts: [never_emitted] * len(drafts)))
    useless.generate(prompts, params)
    assert useless.report()["drafter_alarm"] is True


class BreakingRunner:
    """Runs the real model and puts a number in place of chosen rows' logits, and of their hidden states.

    Args:
        is_broken: of slot, position and view.
        column: the one entry of the row that breaks; None: all.
    """

    def __init__(self, engine: Engine, is_broken, value: float = float("nan"), column: int | None = None):
        self._runner = engine.runner
        self._is_broken = is_broken
        self._value, self._column = value, column
        self._slots: list[int] = []

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def lay_out(self, spans, view, **options):
        rows = self._runner.lay_out(spans, view, **options)
        self._slots = rows.packed[LINES.index("slots"), : rows.num_used].tolist()
        return rows

    def run(self, rows, view):
        return self.read(rows, self.forward(rows, view), view)

    def forward(self, rows, view):
        hidden = self._runner.forward(rows, view)
        sums = hidden.sums.clone()
        sums[self._broken_rows(rows, view)] = self._value
        return hidden._replace(sums=sums)

    def read(self, rows, hidden, view):
        logits = self._runner.read(rows, hidden, view).logits.clone()
        broken = self._broken_rows(rows, view)
        chosen = torch.arange(len(logits)) if rows.choosing is None else rows.choosing
        columns = slice(None) if self._column is None else self._column
        logits[torch.isin(chosen, broken).nonzero()[:, 0], columns] = self._value
        return read_out(logits)

    def _broken_rows(self, rows, view):
        return torch.tensor(
            [
                row
                for row, slot in enumerate(self._slots)
                if self._is_broken(slot, int(rows.positions[row]), view)
            ],
            dtype=torch.int64,
        )


def breaking_engine(is_broken, *, consensus="coupled", mode="consensus", sequences=2, **options) -> Engine:
    config = EngineConfig(
        mode=mode, consensus=consensus, max_sequences=sequences, max_context=64, self_check=False
    )
    engine = Engine(small_orthrus(sameness=0.5), config)
    engine.runner = BreakingRunner(engine, is_broken, **options)
    return engine


PARAMS = [SamplingParams(max_new_tokens=16), SamplingParams(max_new_tokens=16, temperature=1.0)]
MESSAGE = "the logits after position 9 are NaN or infinite, so no token can be chosen there"


def texts(engine: Engine, params: SamplingParams) -> list[list[int]]:
    return [completion.token_ids for completion in engine.generate([[1, 2, 3], [4, 5]], params)]


@pytest.mark.parametrize("params", PARAMS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("mode", ["consensus", "autoregressive"])
@pytest.mark.parametrize(
    ("value", "column"), [(float("nan"), None), (float("nan"), 7), (float("inf"), 7), (float("-inf"), None)]
)
def test_a_broken_row_ends_its_request_before_it_and_no_other(params, mode, value, column):
    sound = texts(breaking_engine(lambda *row: False, mode=mode), params)
    engine = breaking_engine(
        lambda slot, position, view: (slot, position, view) == (0, 9, "ar"),
        mode=mode,
        value=value,
        column=column,
    )
    broken, other = engine.generate([[1, 2, 3], [4, 5]], params)
    assert broken.finish_reason == "error"
    assert broken.error.startswith(MESSAGE)
    assert broken.token_ids == sound[0][:7]  # positions 3 to 9
    assert (other.finish_reason, other.token_ids) == ("length", sound[1])
    assert not engine.has_work


def test_the_rejection_rule_ends_a_broken_row_too():
    engine = breaking_engine(
        lambda slot, position, view: (slot, position, view) == (0, 9, "ar"), consensus="rejection"
    )
    broken, other = engine.generate([[1, 2, 3], [4, 5]], PARAMS[1])
    assert (broken.finish_reason, len(broken.token_ids)) == ("error", 7)
    assert (other.finish_reason, len(other.token_ids)) == ("length", 16)


@pytest.mark.parametrize("params", PARAMS, ids=["greedy", "sampled"])
def test_a_stop_before_the_broken_row_is_no_error(params):
    engine = breaking_engine(lambda slot, position, view: view == "ar" and position == 9)
    stopped = params.model_copy(update={"max_new_tokens": 7})
    [completion] = engine.generate([[1, 2, 3]], stopped)
    assert (completion.finish_reason, len(completion.token_ids)) == ("length", 7)


def test_a_broken_prompt_row_ends_the_request_without_a_token():
    engine = breaking_engine(lambda slot, position, view: (slot, position, view) == (0, 1, "ar"))
    broken, other = engine.generate([[1, 2, 3], [4, 5]], PARAMS[0])
    assert (broken.finish_reason, broken.token_ids) == ("error", [])
    assert broken.error.startswith("the logits after position 1 are NaN or infinite")
    assert other.finish_reason == "length"


@pytest.mark.parametrize(("num_prompt", "position", "num_pages"), [(40, 20, 1), (3, 37, 2)])
def test_only_pages_before_a_broken_row_are_kept_for_the_request_that_follows(
    num_prompt, position, num_pages
):
    engine = breaking_engine(lambda slot, at, view: (slot, at, view) == (0, position, "ar"))
    prompt, params = [1 + n % 7 for n in range(num_prompt)], SamplingParams(max_new_tokens=60)
    broken, _ = engine.run([Request(prompt, params, followed=True), Request([4, 5], params)])
    assert broken.finish_reason == "error"
    text = [*prompt, *broken.token_ids, *[9] * 20]
    assert len(engine.runner.tables.pool.match_prefix(text)) == num_pages


@pytest.mark.parametrize("params", PARAMS, ids=["greedy", "sampled"])
def test_broken_draft_logits_change_no_text(params):
    engine = breaking_engine(lambda slot, position, view: view == "diffusion")
    assert texts(engine, params) == texts(breaking_engine(lambda *row: False), params)


def test_broken_draft_logits_leave_the_rejection_rule_its_distribution():
    engine = breaking_engine(lambda slot, position, view: view == "diffusion", consensus="rejection")
    params = SamplingParams(max_new_tokens=16, temperature=1.0, top_p=0.9)
    completions = engine.generate([[1, 2, 3], [4, 5]], params)
    assert [completion.finish_reason for completion in completions] == ["length", "length"]
    assert all(len(set(completion.token_ids)) > 3 for completion in completions)


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first row", "second", "last"])
@pytest.mark.parametrize("attention", ["native", "plain"])
def test_hidden_states_of_nan_reach_no_other_sequence_nor_the_next_owner_of_their_pages(place, attention):
    """A token whose embedding is NaN poisons every key and value behind it."""
    model = small_orthrus(tied=False, sameness=0.3)
    with torch.no_grad():
        model.model.embed_tokens.weight[50] = float("nan")
    config = EngineConfig(
        max_context=64,
        max_sequences=2,
        token_budget=16,
        num_pages=5,
        page_size=16,
        self_check=False,
        attention=attention,
    )
    sound = [[4, 5], [7, 8, 9], [1] * 20]
    expected = [completion.token_ids for completion in Engine(model, config).generate(sound, PARAMS[0])]
    prompts = [*sound[:place], [1, 50, 2], *sound[place:]]
    completions = Engine(model, config).generate(prompts, PARAMS[0])
    assert completions[place].finish_reason == "error"
    others = [*completions[:place], *completions[place + 1 :]]
    assert [completion.token_ids for completion in others] == expected


def test_a_model_that_never_works_stops_the_engine():
    model = small_orthrus()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    engine = Engine(model, EngineConfig(max_context=64, self_check=False))
    with pytest.raises(EngineError, match="every sequence of a step got NaN or infinite logits"):
        engine.generate([[1, 2], [3, 4]])


def test_a_device_that_breaks_on_the_way_stops_the_engine():
    engine = breaking_engine(lambda slot, position, view: position > 9, mode="autoregressive")
    with pytest.raises(EngineError):
        engine.generate([[1, 2, 3], [4, 5, 6]], PARAMS[0])


def test_one_prompt_that_breaks_alone_leaves_the_engine_to_the_others():
    engine = breaking_engine(
        lambda slot, position, view: position < 3 and engine_runs_first(engine), sequences=1
    )

    def engine_runs_first(engine: Engine) -> bool:
        return engine.stats.emitted_tokens == 0 and bool(engine.scheduler.waiting)

    completions = engine.run([Request([1, 2, 3], PARAMS[0]), Request([4, 5, 6, 7, 8], PARAMS[0])])
    assert [completion.finish_reason for completion in completions] == ["error", "length"]
