import pytest
import torch

from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.evaluation.replay import Replay
from tests.small_models import VOCAB_SIZE, small_orthrus

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
PARAMS = SamplingParams(max_new_tokens=41, ignore_eos=True)


def config(mode="consensus"):
    return EngineConfig(
        mode=mode,
        token_budget=32,
        block_policy="fixed",
        max_sequences=3,
        max_context=64,
        self_check=False,
    )


@pytest.fixture(scope="module")
def model():
    return small_orthrus(noise=0.3)


@pytest.fixture(scope="module")
def texts(model):
    return [row.token_ids for row in Engine(model, config("autoregressive")).generate(PROMPTS, PARAMS)]


def replay_of(texts, *rates):
    known = {tuple(prompt): text for prompt, text in zip(PROMPTS, texts, strict=True)}
    return Replay(known, AcceptanceCurve(rates), block_size=8, vocab_size=VOCAB_SIZE)


def decode(model, replay):
    engine = Engine(model, config(), draft=replay.new_draft())
    return [row.token_ids for row in engine.generate(PROMPTS, PARAMS)], engine.report()


def test_right_proposals_are_the_tokens_behind_the_emitted_ones():
    double = Replay({(1,): [10, 11, 12, 13]}, AcceptanceCurve((1.0, 1.0)), block_size=2, vocab_size=97)
    assert double.proposals[0].tolist() == [[10, 11], [11, 12], [12, 13], [13, 0]]


def test_wrong_proposals_differ_from_the_text_everywhere():
    double = Replay({(1,): [10, 96, 12]}, AcceptanceCurve((0.0,)), block_size=2, vocab_size=97)
    assert double.proposals[0].tolist() == [[11, 0], [0, 13], [13, 1]]


def test_a_curve_of_ones_emits_a_whole_block_and_one_every_step(model, texts):
    outputs, report = decode(model, replay_of(texts, *[1.0] * 8))
    assert outputs == texts
    # five steps each: 41 tokens are four times 9 and 5; two prompts get their first one from the prefill
    assert report["acceptance_length"] == pytest.approx((41 + 40 + 40) / 15)
    assert report["accepted_by_position"] == report["drafted_by_position"]


def test_a_curve_of_zeros_emits_one_token_a_step_and_the_same_text(model, texts):
    outputs, report = decode(model, replay_of(texts, 0.0))
    assert outputs == texts
    assert report["acceptance_length"] == 1.0


def test_drafts_past_the_end_of_the_curve_never_stand(model, texts):
    _, report = decode(model, replay_of(texts, 1.0, 1.0))
    accepted = report["accepted_by_position"]
    assert accepted[1] > 0
    assert sum(accepted[2:]) == 0


def test_the_share_that_stands_is_the_one_asked_for():
    P, N = 40, 100
    known = {(line,): list(range(N)) for line in range(P)}
    double = Replay(known, AcceptanceCurve((0.9, 0.5, 0.1)), block_size=3, vocab_size=1000)
    right = torch.arange(N)[:, None] + torch.arange(3)
    shares = (double.proposals == right)[:, : N - 3].double().mean(dim=(0, 1))
    # 3,880 draws: three standard errors are at most 0.024
    assert shares.tolist() == pytest.approx([0.9, 0.5, 0.1], abs=0.024)


def test_what_stands_does_not_depend_on_the_other_prompts():
    curve = AcceptanceCurve((0.5, 0.5))
    few, many = (
        Replay(
            {(line,): list(range(30)) for line in range(count)}, curve, block_size=2, vocab_size=97, seed=3
        )
        for count in (2, 5)
    )
    assert torch.equal(few.proposals, many.proposals[:2])


def test_another_seed_draws_others():
    known, curve = {(1,): list(range(30))}, AcceptanceCurve((0.5,))
    one, two = (Replay(known, curve, block_size=1, vocab_size=97, seed=seed).proposals for seed in (0, 1))
    assert not torch.equal(one, two)


def test_the_real_diffusion_forward_runs(model, texts, monkeypatch):
    views = []
    engine = Engine(model, config(), draft=replay_of(texts, 1.0).new_draft())
    run = engine.runner.run
    monkeypatch.setattr(engine.runner, "run", lambda rows, view: views.append(view) or run(rows, view))
    engine.generate(PROMPTS, PARAMS)
    assert views.count("diffusion") == engine.report()["draft_forwards"] > 0


def test_a_prompt_without_a_known_text_is_an_error(model, texts):
    engine = Engine(model, config(), draft=replay_of(texts, 1.0).new_draft())
    with pytest.raises(KeyError):
        engine.generate([[50, 51]], PARAMS)
