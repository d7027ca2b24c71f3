"""The rejection rule: its parts by hand, its output against the exact distribution of AR decoding."""

import itertools

import pytest
import torch
from torch import Tensor

import orthrus_core.choosers.rejection as rejection
from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.attention.rows import TokenRows
from orthrus_core.choosers.filters import filter_logits
from orthrus_core.choosers.noise import gumbel_noise
from orthrus_core.choosers.rejection import Distributions, NoiseKeys, emitted_ids, judge, resample, stands
from orthrus_core.models.readout import Hidden, Readout, read_out
from tests.filters import filters_of
from tests.small_models import small_orthrus

V = 5


def gumbel(rows: int, seed: int = 0) -> Tensor:
    uniform = torch.rand(rows, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return -(-uniform.log()).log()


def test_a_draft_stands_as_often_as_p_over_q_says():
    p, q = torch.tensor([0.1, 0.5, 0.3, 0.0]), torch.tensor([0.4, 0.2, 0.3, 0.4])
    uniforms = ((torch.arange(1000) + 0.5) / 1000)[:, None]
    assert stands(p, q, uniforms).float().mean(dim=0).tolist() == pytest.approx([0.25, 1.0, 1.0, 0.0])


def test_the_replacement_follows_the_positive_part_of_p_minus_q():
    p = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1]).expand(40_000, -1)
    q = torch.tensor([0.1, 0.4, 0.4, 0.1, 0.0]).expand(40_000, -1)
    counts = torch.bincount(resample(p, q, gumbel(40_000)), minlength=V)
    assert counts[[1, 2, 3]].tolist() == [0, 0, 0]
    assert int(counts[0]) / 40_000 == pytest.approx(0.8, abs=0.008)  # 0.4 / (0.4 + 0.1); 4 deviations


def test_without_a_positive_part_the_replacement_follows_p():
    p = torch.tensor([0.7, 0.3, 0.0, 0.0, 0.0]).expand(20_000, -1)
    for q in (p, torch.full_like(p, float("nan"))):
        counts = torch.bincount(resample(p, q, gumbel(20_000)), minlength=V)
        assert int(counts[0]) / 20_000 == pytest.approx(0.7, abs=0.013)
        assert counts[2:].tolist() == [0, 0, 0]


def one_hot(*ids: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(ids), V).float()


def keys(count: int) -> NoiseKeys:
    return NoiseKeys(torch.arange(count), torch.zeros(count, dtype=torch.int64), torch.arange(count) * 7)


def test_blocks_are_judged_one_by_one_up_to_their_own_length():
    drafts = torch.tensor([[1, 2, 3], [1, 2, 3], [4, 2, 0]])
    q = Distributions.of(one_hot(1, 2, 3, 1, 2, 3, 4, 2).log(), [0, 3, 6], 3)  # the last block has two
    p = Distributions.of(one_hot(1, 2, 3, 0, 1, 0, 3, 0, 4, 2, 0).log(), [0, 4, 8], 4)
    accepted, replacements = judge(drafts, torch.tensor([3, 3, 2]), p, q, keys(3))
    assert accepted.tolist() == [3, 1, 2]
    assert int(replacements[1]) == 0  # all of p after [1]
    own = torch.tensor([[1, 2, 3, 0], [1, 0, 3, 0], [4, 2, 0, 9]])
    emitted = emitted_ids(own, drafts, torch.tensor([3, 3, 2]), accepted, replacements)
    assert emitted[0].tolist() == [1, 2, 3, 0]
    assert emitted[1, :2].tolist() == [1, 0]
    assert emitted[2, :3].tolist() == [4, 2, 0]


class ToyLanguage:
    """A runner whose AR logits hang on the last token alone, and whose drafts know only their distance.

    A draft row does not see the drafts before it, as in the real head, so q is never p.
    """

    def __init__(self, engine: Engine, vocab_size: int):
        source = torch.Generator().manual_seed(5)
        self.ar_logits = torch.randn(vocab_size, vocab_size, generator=source)
        self.draft_logits = torch.randn(8, vocab_size, generator=source)
        self._runner = engine.runner

    def __getattr__(self, name: str):
        return getattr(self._runner, name)

    def forward(self, rows: TokenRows, view: str) -> Hidden:
        ar, draft = self.ar_logits[rows.token_ids], self.draft_logits[rows.positions % 8]
        states = ar if view == "ar" else draft
        return Hidden(states, states.sum(-1))

    def read(self, rows: TokenRows, hidden: Hidden, view: str) -> Readout:
        return read_out(rows.chosen(hidden.states))

    def run(self, rows: TokenRows, view: str) -> Readout:
        return self.read(rows, self.forward(rows, view), view)


@pytest.fixture(scope="module")
def model():
    return small_orthrus(vocab_size=V, mask_token_id=V - 1, block_size=4)


PROMPT = [2]
LENGTH = 5
PARAMS = {
    "plain": SamplingParams(temperature=1.0, max_new_tokens=LENGTH, ignore_eos=True),
    "filtered": SamplingParams(temperature=0.7, top_k=4, min_p=0.05, max_new_tokens=LENGTH, ignore_eos=True),
}


def toy_texts(model, consensus: str, params: SamplingParams, count: int) -> tuple[Tensor, Engine]:
    """Draw `count` completions (count, LENGTH) of one prompt through the engine, with four seeds."""
    config = EngineConfig(
        consensus=consensus,
        token_budget=1280,
        block_policy="fixed",  # drafts seldom stand here, and without drafts there is nothing to test
        max_sequences=256,
        max_context=16,
        self_check=False,
    )
    engine = Engine(model, config)
    engine.runner = ToyLanguage(engine, V)
    requests = [
        Request(PROMPT, params.model_copy(update={"seed": index % 4}), sample=index // 4)
        for index in range(count)
    ]
    return torch.tensor([completion.token_ids for completion in engine.run(requests)]), engine


def misfit(texts: Tensor, engine: Engine, params: SamplingParams) -> float:
    """Largest chi-square over all pairs of neighbouring tokens, as a multiple of its 0.01 % bound.

    The exact joint of a pair comes from the chain of AR distributions, p(next | last token).
    """
    logits = engine.runner.ar_logits
    chain = filter_logits(logits, filters_of([params] * V)).softmax(dim=-1).double()
    before, ratios = chain[PROMPT[-1]], []
    for first in range(LENGTH - 1):
        counts = torch.bincount(texts[:, first] * V + texts[:, first + 1], minlength=V * V).view(V, V)
        ratios.append(chi_square_over_bound(counts, before[:, None] * chain))
        before = before @ chain
    return max(ratios)


def chi_square_over_bound(counts: Tensor, probabilities: Tensor) -> float:
    """Of what is possible; what is not must not have happened."""
    possible = probabilities > 0
    assert int(counts[~possible].sum()) == 0
    expected = probabilities[possible] * counts.sum()
    degrees = len(expected) - 1
    # Wilson and Hilferty's approximation of the 0.01 % point
    bound = degrees * (1 - 2 / (9 * degrees) + 3.719 * (2 / (9 * degrees)) ** 0.5) ** 3
    return float(((counts[possible] - expected) ** 2 / expected).sum()) / bound


COUNT = 8192


@pytest.mark.parametrize("consensus", ["rejection", "coupled"])
@pytest.mark.parametrize("filters", ["plain", "filtered"])
def test_pairs_of_tokens_are_distributed_as_those_of_ar_decoding(model, consensus, filters):
    texts, engine = toy_texts(model, consensus, PARAMS[filters], COUNT)
    drafted, accepted = (sum(engine.report()[f"{name}_by_position"]) for name in ("drafted", "accepted"))
    assert 0.1 < accepted / drafted < 0.9  # both branches of the rule are walked
    assert misfit(texts, engine, PARAMS[filters]) < 1


@pytest.mark.parametrize("filters", ["plain", "filtered"])
def test_looked_up_drafts_keep_the_distribution_too(filters):
    backbone = small_orthrus(vocab_size=V, mask_token_id=V - 1, block_size=4)
    backbone.config.has_head = False
    texts, engine = toy_texts(backbone, "rejection", PARAMS[filters], COUNT)
    report = engine.report()
    assert report["draft_forwards"] == 0
    assert 0.1 < report["lookup_accepted"] / report["lookup_drafted"] < 0.9
    assert misfit(texts, engine, PARAMS[filters]) < 1


def edited_by_hand(logits: Tensor, params: SamplingParams, emitted: tuple[int, ...]) -> Tensor:
    """One row of logits as penalties make it after these tokens."""
    edited = logits.clone()
    for token_id in {*PROMPT, *emitted}:
        value, count = float(logits[token_id]), emitted.count(token_id)
        value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        edited[token_id] = value - params.frequency_penalty * count - params.presence_penalty * (count > 0)
    return edited


@pytest.mark.parametrize("consensus", ["rejection", "coupled"])
def test_penalised_completions_are_distributed_as_those_of_ar_decoding(model, consensus):
    params = SamplingParams(
        temperature=1.0,
        max_new_tokens=3,
        ignore_eos=True,
        repetition_penalty=2.0,
        frequency_penalty=0.7,
        presence_penalty=0.5,
    )
    texts, engine = toy_texts(model, consensus, params, COUNT)
    exact = torch.ones(V, V, V, dtype=torch.float64)
    for first, second, third in itertools.product(range(V), repeat=3):
        emitted = (first, second, third)
        for place, last in enumerate((PROMPT[-1], first, second)):
            row = edited_by_hand(engine.runner.ar_logits[last], params, emitted[:place])
            exact[emitted] *= float(row.softmax(-1)[emitted[place]])
    counts = torch.bincount((texts * torch.tensor([V * V, V, 1])).sum(1), minlength=V**3).view(V, V, V)
    assert sum(engine.report()["accepted_by_position"]) > 0
    assert chi_square_over_bound(counts, exact) < 1


def no_residual(p: Tensor, q: Tensor, noise: Tensor) -> Tensor:
    return (p.log() + noise).argmax(dim=-1)


def test_the_pair_test_sees_a_forgotten_residual(model, monkeypatch):
    monkeypatch.setattr(rejection, "resample", no_residual)
    texts, engine = toy_texts(model, "rejection", PARAMS["plain"], COUNT)
    assert misfit(texts, engine, PARAMS["plain"]) > 1


def test_the_pair_test_sees_a_replacement_drawn_with_the_noise_of_the_draft(model, monkeypatch):
    def one_stream(seeds, samples, positions, vocab_size, stream):
        return gumbel_noise(seeds, samples, positions, vocab_size)

    monkeypatch.setattr(rejection, "gumbel_noise", one_stream)
    texts, engine = toy_texts(model, "rejection", PARAMS["plain"], COUNT)
    assert misfit(texts, engine, PARAMS["plain"]) > 1


def test_the_pair_test_sees_drafts_that_always_stand(model, monkeypatch):
    monkeypatch.setattr(rejection, "stands", lambda p, q, uniforms: torch.ones_like(p, dtype=torch.bool))
    texts, engine = toy_texts(model, "rejection", PARAMS["plain"], COUNT)
    assert misfit(texts, engine, PARAMS["plain"]) > 1


def test_more_drafts_stand_than_when_coupled(model):
    def share(consensus: str) -> float:
        _, engine = toy_texts(model, consensus, PARAMS["plain"], 1024)
        report = engine.report()
        return report["accepted_by_position"][0] / report["drafted_by_position"][0]

    assert share("rejection") > share("coupled")


def completions_of(model, consensus: str, requests: list[Request]):
    config = EngineConfig(consensus=consensus, token_budget=32, max_sequences=4, max_context=64)
    return Engine(model, config).run(requests)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_rows_beside_sampling_ones_keep_the_text_of_ar(dtype):
    model = small_orthrus(sameness=0.2, dtype=dtype)
    params = [SamplingParams(max_new_tokens=20), SamplingParams(max_new_tokens=20, temperature=1.0)]
    requests = [Request([3 + index, 4], params[index % 2]) for index in range(8)]
    mixed = completions_of(model, "rejection", requests)
    alone = completions_of(model, "coupled", requests[::2])
    assert [c.token_ids for c in mixed[::2]] == [c.token_ids for c in alone]
    assert sum(c.stats.accepted for c in mixed[1::2]) > 0


def test_logprobs_are_those_of_the_emitted_tokens():
    model = small_orthrus(sameness=0.5)
    params = SamplingParams(max_new_tokens=30, temperature=1.2, seed=3, logprobs=True)
    [completion] = completions_of(model, "rejection", [Request([5, 6, 7], params)])
    ids = torch.tensor([[5, 6, 7] + completion.token_ids])
    expected = model(ids).logits.detach()[0, 2:-1].log_softmax(-1).gather(1, ids[0, 3:, None])[:, 0]
    assert 0 < completion.stats.accepted < completion.stats.drafted
    assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_without_drafts_the_text_is_that_of_ar():
    model = small_orthrus()
    request = Request([1, 2], SamplingParams(max_new_tokens=9, temperature=1.0))
    engine = Engine(model, EngineConfig(mode="autoregressive", consensus="rejection", max_context=64))
    assert engine.run([request])[0].token_ids == (
        Engine(model, EngineConfig(mode="autoregressive", max_context=64)).run([request])[0].token_ids
    )
