"""Steps that are launched before the one before them has landed, on a runner that would let a device work."""

import pytest

from orthrus_core import Completion, Engine, EngineConfig, EngineError, Request, SamplingParams
from orthrus_core.costs import Costs
from orthrus_core.engine import engine as engine_module
from orthrus_core.engine.flight import launch
from orthrus_core.readiness.startup import Readiness
from tests.small_models import small_orthrus

DEAR_DRAFTS = Costs((4, 32), draft_s=(9.0, 9.0), verify_s=(1.0, 20.0))  # looked up ones, too
CONFIG = EngineConfig(max_sequences=4, max_context=96, page_size=4, self_check=False)
SAMPLING = {
    "greedy": {},
    "sampled": {"temperature": 0.8, "top_p": 0.9, "logprobs": True},
    "penalties": {"frequency_penalty": 0.7, "min_tokens": 9},
    "likeliest": {"logprobs": 3, "temperature": 0.5},
}


@pytest.fixture(scope="module")
def model():
    return small_orthrus(eos_token_id=2)


def requests(**sampling) -> list[Request]:
    """More than there are slots for; they end by an EOS, a stop id or their length."""
    params = [
        SamplingParams(max_new_tokens=50 + 3 * n, stop_token_ids=[n, 40 + n], **sampling) for n in range(9)
    ]
    return [Request([5 + n] * (1 + 2 * n), one) for n, one in enumerate(params)]


def new_engine(model, mode: str, *, runs_ahead: bool, costs: Costs = DEAR_DRAFTS) -> Engine:
    engine = Engine(model, CONFIG.model_copy(update={"mode": mode}), ready=Readiness("exact", costs))
    engine.runs_ahead = runs_ahead
    return engine


@pytest.fixture
def num_ahead(monkeypatch) -> list[int]:
    """How many steps were launched ahead."""
    count = [0]

    def counting(*arguments, behind=None):
        count[0] += behind is not None
        return launch(*arguments, behind=behind)

    monkeypatch.setattr(engine_module, "launch", counting)
    return count


@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=SAMPLING)
@pytest.mark.parametrize("mode", ["autoregressive", "consensus"])
def test_steps_launched_ahead_give_the_same_completions(model, mode, sampling, num_ahead):
    expected = new_engine(model, mode, runs_ahead=False).run(requests(**sampling))
    assert num_ahead == [0]
    engine = new_engine(model, mode, runs_ahead=True)
    for found, wanted in zip(engine.run(requests(**sampling)), expected, strict=True):
        assert (found.token_ids, found.finish_reason) == (wanted.token_ids, wanted.finish_reason)
        assert (found.logprobs, found.top_logprobs) == (wanted.logprobs, wanted.top_logprobs)
    assert engine.stats.emitted_tokens == sum(len(one.token_ids) for one in expected)
    assert engine.runner.tables.pool.num_available == engine.runner.tables.pool.num_pages - 1
    depends = sampling in (SAMPLING["penalties"], SAMPLING["likeliest"])
    assert (num_ahead[0] > 10) == (not depends)
    if mode == "autoregressive" and not depends:  # while prompts come in, too
        assert num_ahead[0] > 0.9 * engine.stats.steps


def test_prompts_share_their_beginnings_with_those_in_flight(model):
    params = SamplingParams(max_new_tokens=12, ignore_eos=True, temperature=1.0)
    prompts = [[7] * 18 + [tail] * 5 for tail in range(1, 7)] + [[9] * 40] * 3
    reports, texts = [], []
    for runs_ahead in (False, True):
        engine = new_engine(model, "autoregressive", runs_ahead=runs_ahead)
        texts.append([one.token_ids for one in engine.generate(prompts, params)])
        reports.append(engine.report()["prefix_tokens"])
    assert texts[0] == texts[1]
    assert reports[0] == reports[1] > 100


def test_requests_that_come_while_a_step_is_in_flight_start_with_the_next_plan(model, num_ahead):
    engine = new_engine(model, "autoregressive", runs_ahead=True)
    first, *others = (
        Request([n + 3] * 5, SamplingParams(max_new_tokens=20, ignore_eos=True)) for n in range(3)
    )
    engine.submit(first)
    for _ in range(4):
        engine.step()
    assert num_ahead[0]
    for request in others:
        engine.submit(request)
    engine.step()  # lands
    engine.step()
    assert len(engine.scheduler.running) == 3


def test_a_request_cancelled_in_flight_leaves_nothing_behind(model, num_ahead):
    engine = new_engine(model, "autoregressive", runs_ahead=True)
    params = SamplingParams(max_new_tokens=20, ignore_eos=True)
    ids = [engine.submit(Request([n + 3] * 5, params)) for n in range(2)]
    for _ in range(4):
        engine.step()
    assert num_ahead[0]
    assert all(engine.cancel(one) for one in ids)
    emitted = engine.stats.emitted_tokens
    assert not engine.has_work
    assert engine.step() == []
    assert engine.stats.emitted_tokens == emitted
    [again] = engine.run([Request([3] * 5, params)])
    [expected] = new_engine(model, "autoregressive", runs_ahead=False).run([Request([3] * 5, params)])
    assert again.token_ids == expected.token_ids


def steps_to_the_end(engine: Engine) -> list[Completion]:
    return [completion for _ in iter(lambda: engine.has_work, False) for completion in engine.step()]


def test_a_step_behind_one_that_an_observer_refuses_never_lands(model):
    class Refuses:
        def __init__(self):
            self.left = 6

        def saw(self, step, verdicts):
            self.left -= 1
            if not self.left:
                raise EngineError("a bad step")

    engine = new_engine(model, "autoregressive", runs_ahead=True)
    engine._observers = (Refuses(),)
    request = Request([3] * 5, SamplingParams(max_new_tokens=20, ignore_eos=True))
    engine.submit(request)
    with pytest.raises(EngineError, match="a bad step"):
        steps_to_the_end(engine)
    [done] = steps_to_the_end(engine)
    [expected] = new_engine(model, "autoregressive", runs_ahead=False).run([request])
    assert done.token_ids == expected.token_ids


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [SAMPLING["greedy"], SAMPLING["sampled"]], ids=["greedy", "sampled"])
def test_cuda_runs_ahead(sampling, num_ahead):
    model, config = (
        small_orthrus(eos_token_id=2).cuda(),
        EngineConfig(mode="autoregressive", max_context=96, compile="off"),
    )
    ahead, one_by_one = Engine(model, config), Engine(model, config)
    assert ahead.runs_ahead
    one_by_one.runs_ahead = False
    expected = one_by_one.run(requests(**sampling))
    assert num_ahead == [0]
    found = ahead.run(requests(**sampling))
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert num_ahead[0] > 10
