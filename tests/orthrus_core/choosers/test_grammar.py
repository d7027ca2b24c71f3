"""Structured output through the engine: the text of AR decoding under the grammar, bit for bit."""

import random
from collections import Counter

import pytest
import torch

import orthrus_core.choosers.choice as choice_module
from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.choosers.coupled import Coupled
from orthrus_core.choosers.grammar import UnderGrammar
from orthrus_core.choosers.masks import RowMasks
from tests.grammars import EOS, GRAMMARS, MASK, PERSON, V, grammar_model, obeys, slow_decoding, tokenizer
from tests.plain_ar import alone, numbers_of, outcomes
from tests.seeds import seeds

TOKENIZER = tokenizer()
BOUND = SamplingParams(json_schema=PERSON, max_new_tokens=60)


def random_params(source: random.Random, **fields) -> SamplingParams:
    fields = {"max_new_tokens": source.choice([6, 24, 60]), "logprobs": True} | fields
    if source.random() < 0.8:
        fields |= source.choice(GRAMMARS)
    if source.random() < 0.2:
        fields["stop"] = source.choice([("a",), ('":',), ("12", "e")])
    if source.random() < 0.5:
        return SamplingParams(**fields)
    return SamplingParams(
        temperature=source.choice([0.3, 1.0, 1.5]),
        top_k=source.choice([0, 0, 1, 5]),
        top_p=source.choice([1.0, 1.0, 0.7]),
        min_p=source.choice([0.0, 0.0, 0.1]),
        seed=source.choice([0, 2**63 - 1]),
        **fields,
    )


def random_requests(source: random.Random, count: int, **fields) -> list[Request]:
    return [
        Request(
            [source.randrange(95) for _ in range(source.randint(1, 40))],
            random_params(source, **fields),
            sample=source.choice([0, 0, 1]),
        )
        for _ in range(count)
    ]


def random_engine(model, source: random.Random, *, token_budget: int, draft=None, **fields) -> Engine:
    options = {
        "token_budget": token_budget,
        "block_size": source.choice([1, 2, 5, 8]),
        "block_policy": source.choice(["fixed", "fixed", "adaptive"]),
        "max_sequences": source.choice([1, 3, 8, 16]),
        "max_context": 128,
        "num_pages": source.choice([None, 9, 14]),
        "self_check": False,
    }
    return Engine(model, EngineConfig(**options | fields), TOKENIZER, draft=draft)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", seeds(5))
def test_consensus_equals_ar_bit_for_bit_under_grammars_in_random_traffic(dtype, seed):
    source = random.Random(seed)
    token_budget = source.choice([16, 24, 64])
    model = grammar_model(seed, dtype=dtype, sameness=source.choice([0.2, 1.0]))
    requests = random_requests(source, source.choice([4, 9, 16]))
    engine = random_engine(model, source, token_budget=token_budget)
    completions = engine.run(requests)
    references = alone(model, requests, TOKENIZER, token_budget=token_budget)
    assert outcomes(completions) == outcomes(references)
    if engine.config.block_policy == "fixed":
        assert sum(c.stats.accepted for c in completions) > 0
    for request, completion in zip(requests, completions, strict=True):
        if request.params.grammar and completion.finish_reason == "stop" and completion.stop_string is None:
            assert obeys(TOKENIZER.decode(completion.token_ids[:-1]), request.params)


@pytest.mark.parametrize("grammar", GRAMMARS, ids=str)
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 7}], ids=str)
def test_the_engine_equals_a_slow_decoder_that_asks_about_every_token(grammar, options):
    model = grammar_model(1)
    prompts = [[5, 9, 60], [33]]
    params = SamplingParams(max_new_tokens=40, **grammar, **options)
    completions = Engine(model, EngineConfig(max_context=128), TOKENIZER).generate(prompts, params)
    assert [c.token_ids for c in completions] == [slow_decoding(model, prompt, params) for prompt in prompts]


def test_all_samples_of_a_prompt_obey_and_equal_ar():
    model = grammar_model(2)
    params = SamplingParams(json_schema=PERSON, temperature=1.2, max_new_tokens=90, logprobs=True)
    prompt = list(range(20))
    engine = Engine(model, EngineConfig(max_context=128, block_policy="fixed"), TOKENIZER)
    completions = engine.generate([prompt], params, num_samples=6)
    requests = [Request(prompt, params, sample=sample) for sample in range(6)]
    references = alone(model, requests, TOKENIZER, token_budget=engine.costs.budgets[-1])
    assert outcomes(completions) == outcomes(references)
    finished = [c for c in completions if c.finish_reason == "stop"]
    assert len(finished) >= 3
    assert all(obeys(TOKENIZER.decode(c.token_ids[:-1]), params) for c in finished)
    assert len({tuple(c.token_ids) for c in completions}) == 6


def test_preempted_sequences_go_on_where_their_grammar_stood():
    model = grammar_model(3)
    requests = [
        Request([n, n + 1], SamplingParams(json_schema=PERSON, max_new_tokens=70, temperature=1.0, seed=n))
        for n in range(8)
    ]
    config = EngineConfig(max_sequences=8, max_context=128, num_pages=16, token_budget=64, self_check=False)
    engine = Engine(model, config, TOKENIZER)
    completions = engine.run(requests)
    assert engine.report()["preemptions"] > 0
    assert outcomes(completions) == outcomes(alone(model, requests, TOKENIZER, token_budget=64))


def test_ordinary_neighbours_are_unchanged_bit_for_bit():
    model = grammar_model(4)
    source = random.Random(4)
    ordinary = [
        Request(r.prompt_ids, SamplingParams(max_new_tokens=30, temperature=t, seed=3, logprobs=True))
        for r, t in zip(random_requests(source, 6), [0.0, 0.8] * 3, strict=True)
    ]
    config = EngineConfig(max_sequences=12, max_context=128, token_budget=64, self_check=False)
    without = Engine(model, config, TOKENIZER).run(ordinary)
    bound = [Request(r.prompt_ids, BOUND) for r in ordinary]
    mixed = [r for pair in zip(ordinary, bound, strict=True) for r in pair]
    together = Engine(model, config, TOKENIZER).run(mixed)
    assert outcomes(together[::2]) == outcomes(without)


def test_runs_without_a_grammar_do_no_work_for_grammars(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("masks in a run without a grammar")

    monkeypatch.setattr(choice_module, "_likeliest_allowed", never)
    monkeypatch.setattr(UnderGrammar, "__init__", never)
    monkeypatch.setattr(RowMasks, "of", never)
    engine = Engine(grammar_model(), EngineConfig(max_context=128, block_policy="fixed"), TOKENIZER)
    assert engine.generate([[1, 2]], SamplingParams(max_new_tokens=20))[0].stats.drafted > 0
    with pytest.raises(AssertionError, match="masks in a run"):
        engine.generate([[1, 2]], BOUND)


def anchor_masks_only(chooser, step, draft_ids, device):
    """`UnderGrammar._row_masks` with a planted bug: no mask reaches the rows of drafts."""
    masks = row_masks(chooser, step, draft_ids, device)
    if masks is None:
        return None
    keep = torch.isin(masks.rows, torch.from_numpy(step.choices))
    return RowMasks(masks.rows[keep], masks.bits[keep])


row_masks = UnderGrammar._row_masks


def test_a_verify_row_left_without_its_mask_would_be_seen(monkeypatch):
    model = grammar_model(1, sameness=1.0)
    requests = [Request([n], BOUND) for n in range(6)]
    references = alone(model, requests, TOKENIZER, token_budget=64)
    config = EngineConfig(max_context=128, token_budget=64, block_policy="fixed", self_check=False)
    assert outcomes(Engine(model, config, TOKENIZER).run(requests)) == outcomes(references)
    monkeypatch.setattr(UnderGrammar, "_row_masks", anchor_masks_only)
    broken = Engine(model, config, TOKENIZER).run(requests)
    assert [c.token_ids for c in broken] != [r.token_ids for r in references]


class JunkDrafts:
    """Knows neither the model nor the grammar."""

    def __init__(self, source: random.Random):
        self._source = source

    def propose(self, runner, step, chooser):
        drafts = [self._source.choice([EOS, MASK, V - 1, 0, 40]) for _ in step.target_rows]
        return torch.tensor(drafts)


def test_drafts_that_know_no_grammar_change_nothing():
    model = grammar_model(5)
    source = random.Random(5)
    requests = random_requests(source, 8)
    references = alone(model, requests, TOKENIZER, token_budget=64)
    engine = random_engine(
        model, source, draft=JunkDrafts(source), token_budget=64, block_policy="fixed", block_size=8
    )
    assert outcomes(engine.run(requests)) == outcomes(references)


def test_drafts_under_the_masks_of_their_places_stand_more_often(monkeypatch):
    """A head that copies the backbone drafts what the backbone chooses only if it follows the grammar."""
    model = grammar_model(1, sameness=1.0, noise=0.0)
    requests = [Request([n], BOUND) for n in range(6)]

    def acceptance() -> float:
        config = EngineConfig(max_context=128, block_policy="fixed", self_check=False)
        completions = Engine(model, config, TOKENIZER).run(requests)
        return sum(c.stats.accepted for c in completions) / sum(c.stats.steps for c in completions)

    masked = acceptance()
    monkeypatch.setattr(UnderGrammar, "propose", Coupled.propose)
    assert masked > 3 * acceptance()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_rejection_rule_writes_what_the_grammar_admits(temperature):
    model = grammar_model(6, sameness=1.0)
    requests = [
        Request([n], SamplingParams(temperature=temperature, max_new_tokens=100, seed=n, **grammar))
        for n, grammar in enumerate(GRAMMARS * 4)
    ]
    config = EngineConfig(max_context=128, consensus="rejection", block_policy="fixed", self_check=False)
    completions = Engine(model, config, TOKENIZER).run(requests)
    texts = [TOKENIZER.decode(c.token_ids, skip_special_tokens=True) for c in completions]
    finished = [
        obeys(text, request.params)
        for request, completion, text in zip(requests, completions, texts, strict=True)
        if completion.finish_reason == "stop"
    ]
    assert len(finished) > 10
    assert all(finished)


def test_the_rejection_rule_keeps_the_distribution_of_ar_under_a_grammar():
    model = grammar_model(6, noise=0.05)
    counts = {}
    for consensus in ("coupled", "rejection"):
        config = EngineConfig(max_context=32, max_sequences=64, consensus=consensus, self_check=False)
        config = config.model_copy(update={"block_policy": "fixed", "block_size": 4})
        params = SamplingParams(regex="[abc]{3}", temperature=1.5)
        completions = Engine(model, config, TOKENIZER).generate([[7, 8]], params, num_samples=700)
        counts[consensus] = Counter(TOKENIZER.decode(c.token_ids[:-1]) for c in completions)
    texts = set(counts["coupled"]) | set(counts["rejection"])
    chi_square = sum(
        (counts["coupled"][t] - counts["rejection"][t]) ** 2 / (counts["coupled"][t] + counts["rejection"][t])
        for t in texts
    )
    assert chi_square < len(texts) + 5 * (2 * len(texts)) ** 0.5
    assert len(texts) > 5


def test_masks_go_before_filters():
    """top_k 1 of what the grammar admits: greedy decoding under the grammar."""
    model = grammar_model(7)
    engine = Engine(model, EngineConfig(max_context=128), TOKENIZER)
    prompts = [[n, 3] for n in range(4)]
    greedy = engine.generate(prompts, BOUND)
    narrow = engine.generate(prompts, BOUND.model_copy(update={"temperature": 1.0, "top_k": 1}))
    assert [c.token_ids for c in narrow] == [c.token_ids for c in greedy]


def test_log_probabilities_are_those_of_the_model_without_the_grammar():
    model = grammar_model(8)
    [completion] = Engine(model, EngineConfig(max_context=128), TOKENIZER).generate(
        [[4, 5]], SamplingParams(regex="ab[.]", max_new_tokens=9, logprobs=True)
    )
    logprobs, _ = numbers_of(model, [4, 5], completion.token_ids)
    assert completion.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_a_completion_cut_by_its_length_says_so():
    [completion] = Engine(grammar_model(), EngineConfig(max_context=128), TOKENIZER).generate(
        [[1]], SamplingParams(json_schema=PERSON, max_new_tokens=3)
    )
    assert completion.finish_reason == "length"
    assert not obeys(TOKENIZER.decode(completion.token_ids), BOUND)
