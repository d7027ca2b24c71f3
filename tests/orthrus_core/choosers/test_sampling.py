"""Sampling: the probabilities of the model, and one text per (prompt, parameters, seed) in every traffic."""

import random

import pytest
import torch
from pydantic import ValidationError

import orthrus_core.choosers.choice as choice_module
from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.choosers.choice import choose
from orthrus_core.choosers.draw import draw_for
from orthrus_core.choosers.sampling import sampling_of
from orthrus_core.engine.layout import ChoosingRows
from orthrus_core.engine.sequence import Sequence
from orthrus_core.engine.step import DiffusionDrafts
from orthrus_core.models.readout import read_out
from tests.drafts import mostly_right
from tests.plain_ar import alone, logits_before, numbers_of, outcomes, run_with_arrivals
from tests.seeds import seeds
from tests.small_models import small_orthrus

V = 97
CPU = torch.device("cpu")


def random_params(source: random.Random, **fields) -> SamplingParams:
    """Greedy in one case of four, else any mix of filters."""
    if source.random() < 0.25:
        return SamplingParams(**fields)
    return SamplingParams(
        temperature=source.choice([0.3, 0.7, 1.0, 1.5]),
        top_k=source.choice([0, 0, 1, 5, 40]),
        top_p=source.choice([1.0, 1.0, 0.5, 0.95]),
        min_p=source.choice([0.0, 0.0, 0.02, 0.3]),
        seed=source.choice([0, 1, 2**63 - 1]),
        **fields,
    )


def random_requests(source: random.Random, count: int, *, longest: int, **fields) -> list[Request]:
    return [
        Request(
            [source.randrange(V) for _ in range(source.randint(1, longest))],
            random_params(source, **fields),
            sample=source.choice([0, 0, 1]),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", seeds(5))
@pytest.mark.parametrize("drafts", ["own", "oracle"])
def test_consensus_equals_ar_bit_for_bit_in_random_traffic(dtype, seed, drafts):
    source = random.Random(seed)
    token_budget = source.choice([16, 24, 64])
    model = small_orthrus(seed=seed, dtype=dtype, block_size=16, sameness=0.2)
    longest = source.choice([20, 120, 300])
    requests = random_requests(source, source.choice([2, 5, 9, 16]), longest=longest, max_new_tokens=24)
    references = alone(model, requests, token_budget=token_budget, max_context=640)
    oracle = None
    if drafts == "oracle":
        oracle = mostly_right(requests, references, source.choice([0.5, 0.9]), source)
    engine = Engine(
        model,
        EngineConfig(
            token_budget=token_budget,
            block_size=source.choice([2, 5, 8, 16]),
            block_policy="fixed",
            max_sequences=min(source.choice([1, 3, 8, 16]), token_budget),
            max_context=640,
            num_pages=source.choice([None, 42]),
            self_check=False,
        ),
        draft=oracle,
    )
    completions = run_with_arrivals(engine, requests, source)
    assert outcomes(completions) == outcomes(references)
    assert sum(c.stats.accepted for c in completions) > 0


class DraftsOfOtherNoise:
    """The diffusion view's drafts, with the noise of positions further on."""

    def __init__(self, shift: int):
        self._shift = shift

    def propose(self, runner, step, chooser):
        def draw(logits, positions, *arguments, **options):
            return draw_for("cpu")(logits, positions + self._shift, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(choice_module, "draw_for", lambda device_type: draw)
            return DiffusionDrafts().propose(runner, step, chooser)


def test_shared_noise_lets_drafts_stand():
    """A head that copies the backbone drafts what the backbone draws, but only with the same noise."""
    model = small_orthrus(sameness=1.0, noise=0.0)
    params = SamplingParams(temperature=1.0, max_new_tokens=40)

    def accepted_share(position_shift: int) -> float:
        config = EngineConfig(max_context=64, self_check=False)
        engine = Engine(model, config, draft=DraftsOfOtherNoise(position_shift))
        [completion] = engine.generate([[1, 2, 3]], params)
        return completion.stats.accepted / completion.stats.drafted

    assert accepted_share(0) > 2 * accepted_share(1)


def drawn(logits, params: SamplingParams, count: int):
    """Draw `count` tokens from one row of logits, at as many positions."""
    sequence = Sequence(0, [1], params, frozenset(), None)
    sampling = sampling_of([ChoosingRows(0, sequence, 0, count)], CPU)
    return choose(read_out(logits.expand(count, -1)), torch.arange(count), sampling)[0]


def test_rows_bring_the_parameters_of_their_own_sequence():
    several = [
        SamplingParams(temperature=0.7, top_p=0.95, seed=2**63 - 1),
        SamplingParams(),
        SamplingParams(temperature=1.5, top_k=40, min_p=0.1, seed=3),
    ]
    sequences = [Sequence(n, [1], params, frozenset(), None) for n, params in enumerate(several)]
    spans = [(2, 2), (4, 3), (9, 1)]
    choosing = [ChoosingRows(n, sequences[n], first, count) for n, (first, count) in enumerate(spans)]
    sampling = sampling_of(choosing, CPU)
    assert sampling.rows.tolist() == [2, 3, 9]
    assert sampling.seeds.tolist() == [2**63 - 1, 2**63 - 1, 3]
    assert sampling.filters.temperature.tolist() == pytest.approx([0.7, 0.7, 1.5])
    assert sampling.filters.top_k.tolist() == [0, 0, 40]
    assert sampling.filters.top_p.tolist() == [0.95, 0.95, 1.0]
    assert sampling.filters.min_p.tolist() == pytest.approx([0.0, 0.0, 0.1])
    assert sampling_of([choosing[1]], CPU) is None


def chi_square(ids, probabilities) -> float:
    expected = probabilities * len(ids)
    counts = torch.bincount(ids, minlength=len(probabilities))
    return float(((counts - expected) ** 2 / expected).sum())


LOGITS = torch.tensor([2.0, 1.0, 1.0, 0.0, -0.5, 0.7, -1.5, 1.8, 0.2, -0.1, 0.4])
BOUND = 29.6  # chi-square with 10 degrees of freedom, 0.1 %


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_choices_follow_the_softmax(temperature):
    ids = drawn(LOGITS, SamplingParams(temperature=temperature, seed=4), 20_000)
    assert chi_square(ids, (LOGITS / temperature).softmax(0)) < BOUND
    assert chi_square(ids, (LOGITS / (temperature * 1.1)).softmax(0)) > BOUND


def test_filtered_choices_follow_the_softmax_of_what_is_left():
    ids = drawn(LOGITS, SamplingParams(temperature=1.0, top_k=3, seed=4), 20_000)
    left = [0, 1, 2, 7]  # 1 and 2 tie
    assert ids.unique().tolist() == left
    counts = torch.bincount(ids, minlength=11)[left]
    expected = LOGITS[left].softmax(0) * 20_000
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.3  # 3 degrees of freedom, 0.1 %


def test_logprob_and_gap_stay_those_of_the_ar_logits():
    model = small_orthrus()
    params = SamplingParams(max_new_tokens=9, temperature=1.5, top_k=30, seed=1)
    [completion] = Engine(model, EngineConfig(max_context=64)).generate([[5, 6, 7]], params)
    logprobs, gap = numbers_of(model, [5, 6, 7], completion.token_ids)
    assert completion.token_ids != logits_before(model, [5, 6, 7], completion.token_ids).argmax(-1).tolist()
    assert completion.stats.logprob == pytest.approx(sum(logprobs), abs=1e-4)
    assert completion.stats.min_logit_gap == pytest.approx(gap, abs=1e-4)


def text(model, prompt, *, sample=0, **params) -> list[int]:
    engine = Engine(model, EngineConfig(max_context=64, self_check=False))
    request = Request(prompt, SamplingParams(max_new_tokens=16, **params), sample=sample)
    return engine.run([request])[0].token_ids


def test_a_seed_gives_its_text_again_and_another_seed_or_sample_another():
    model = small_orthrus()
    first = text(model, [1, 2, 3], temperature=1.0, seed=1)
    assert text(model, [1, 2, 3], temperature=1.0, seed=1) == first
    assert text(model, [1, 2, 3], temperature=1.0, seed=2) != first
    assert text(model, [1, 2, 3], temperature=1.0, seed=1, sample=1) != first


def test_top_k_of_one_is_greedy():
    model = small_orthrus()
    assert text(model, [1, 2, 3], temperature=1.0, top_k=1) == text(model, [1, 2, 3])


def test_no_noise_is_computed_while_every_row_is_greedy(monkeypatch):
    monkeypatch.setattr(choice_module, "draw_for", None)
    assert len(text(small_orthrus(), [1, 2, 3], temperature=0.0, top_k=5, seed=9)) == 16


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 1e-6),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("temperature", 1e39),
        ("top_k", -1),
        ("top_k", 2**63),
        ("max_new_tokens", 2**31),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_values_out_of_bounds_are_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        SamplingParams(**{field: value})
