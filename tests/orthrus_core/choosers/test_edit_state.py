"""Penalties, biases and forbidden tokens of a row: those of transformers' processors and of vLLM's rules."""

import random

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from orthrus_core import SamplingParams
from orthrus_core.choosers.edit_state import EditCompiler
from orthrus_core.choosers.edited import edits_of
from orthrus_core.engine.layout import ChoosingRows
from orthrus_core.engine.sequence import Sequence
from orthrus_core.errors import RequestError
from orthrus_core.models.readout import read_out
from tests.tokenizers import fast_tokenizer

V = 23
PROMPT, OUTPUT = [3, 5, 5, 11], [7, 3, 7, 7, 9]
BAD = ((4,), (7, 9), (5, 11, 7), (7, 7, 9, 2))
STOP = (21, 22)


def edited_rows(logits, params, token_ids=PROMPT + OUTPUT, *, num_prompt=4, drafts=()):
    """The edited logits (1 + drafts, V) of the rows of a sequence's last token and its drafts."""
    sequence = Sequence(0, list(token_ids), params, frozenset(STOP), None)
    sequence.num_prompt = num_prompt
    sequence.edits = EditCompiler(None, vocab_size=V).new_state(params, STOP)
    rows = ChoosingRows(0, sequence, 0, 1 + len(drafts))
    return edits_of([(rows, drafts)], logits).apply(read_out(logits)).logits


def some_logits(rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * 3


def test_repetition_penalty_is_that_of_transformers():
    logits = some_logits()
    processor = RepetitionPenaltyLogitsProcessor(1.3)
    expected = processor(torch.tensor([PROMPT + OUTPUT]), logits.clone())
    assert torch.equal(edited_rows(logits, SamplingParams(repetition_penalty=1.3)), expected)


def test_logit_bias_is_transformers_sequence_bias_of_single_tokens():
    logits = some_logits()
    processor = SequenceBiasLogitsProcessor({(3,): -2.5, (20,): 4.0})
    expected = processor(torch.tensor([PROMPT + OUTPUT]), logits.clone())
    assert torch.equal(edited_rows(logits, SamplingParams(logit_bias={20: 4.0, "3": -2.5})), expected)


def test_bias_comes_before_the_repetition_penalty_as_in_transformers():
    logits = some_logits()
    ids = torch.tensor([PROMPT + OUTPUT])
    expected = SequenceBiasLogitsProcessor({(3,): 5.0})(ids, logits.clone())
    expected = RepetitionPenaltyLogitsProcessor(0.7)(ids, expected)
    params = SamplingParams(logit_bias={3: 5.0}, repetition_penalty=0.7)
    assert torch.equal(edited_rows(logits, params), expected)


@pytest.mark.parametrize("cut", range(1, len(PROMPT + OUTPUT) + 1))
def test_bad_words_are_those_of_transformers_across_the_end_of_the_prompt_too(cut):
    logits, ids = some_logits(), (PROMPT + OUTPUT)[:cut]
    processor = NoBadWordsLogitsProcessor([list(word) for word in BAD], eos_token_id=STOP[0])
    expected = processor(torch.tensor([ids]), logits.clone())
    got = edited_rows(logits, SamplingParams(bad_words=BAD), ids, num_prompt=min(cut, len(PROMPT)))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("least", [len(OUTPUT), len(OUTPUT) + 1])
def test_min_tokens_is_transformers_min_new_tokens(least):
    logits = some_logits()
    processor = MinNewTokensLengthLogitsProcessor(len(PROMPT), least, list(STOP), device="cpu")
    expected = processor(torch.tensor([PROMPT + OUTPUT]), logits.clone())
    assert torch.equal(edited_rows(logits, SamplingParams(min_tokens=least)), expected)


def test_allowed_token_ids_suppress_all_others():
    logits = some_logits()
    others = [token_id for token_id in range(V) if token_id not in (2, 3, 20)]
    expected = SuppressTokensLogitsProcessor(others, device="cpu")(None, logits.clone())
    assert torch.equal(edited_rows(logits, SamplingParams(allowed_token_ids=(20, 2, 3))), expected)


def test_presence_and_frequency_count_the_completion_alone():
    logits = some_logits()
    expected = logits[0].clone()
    for token_id, count in ((7, 3), (3, 1), (9, 1)):  # 5 and 11 stand in the prompt only
        expected[token_id] = expected[token_id] - 0.3 * count - 0.6
    got = edited_rows(logits, SamplingParams(presence_penalty=0.6, frequency_penalty=0.3))
    assert torch.allclose(got[0], expected, rtol=1e-6)
    assert torch.equal(got[0, [5, 11]], logits[0, [5, 11]])


def random_edits(source: random.Random) -> SamplingParams:
    """Parameters with any mix of edits, at least one."""
    mix = {
        "repetition_penalty": source.choice([0.8, 1.2, 3.0]),
        "presence_penalty": source.choice([-1.0, 0.5]),
        "frequency_penalty": source.choice([-0.5, 0.7]),
        "min_tokens": source.choice([3, 9]),
        "logit_bias": {source.randrange(V): source.uniform(-9, 9) for _ in range(3)},
        "bad_words": tuple(tuple(source.choices(range(9), k=source.randint(1, 3))) for _ in range(6)),
        "allowed_token_ids": tuple(source.sample(range(V), 15)),
    }
    names = source.sample(sorted(mix), source.randint(1, len(mix)))
    return SamplingParams(**{name: mix[name] for name in names})


@pytest.mark.parametrize("seed", range(60))
def test_every_row_of_a_block_is_edited_as_if_its_drafts_were_emitted(seed):
    """The slow form: a sequence of its own for each row, whose tokens are emitted and not drafted."""
    source = random.Random(seed)
    params = random_edits(source)
    tokens = [source.randrange(12) for _ in range(20)]
    num_prompt, drafts = source.randint(1, 12), [source.randrange(12) for _ in range(6)]
    logits = some_logits(7, seed)
    block = edited_rows(logits, params, tokens, num_prompt=num_prompt, drafts=drafts)
    rows = [
        edited_rows(logits[row : row + 1], params, tokens + drafts[:row], num_prompt=num_prompt)
        for row in range(7)
    ]
    assert torch.equal(block, torch.cat(rows))


def test_drafts_that_fell_leave_no_trace():
    params = SamplingParams(repetition_penalty=1.5, frequency_penalty=0.5, bad_words=BAD)
    state = EditCompiler(None, vocab_size=V).new_state(params, STOP)
    state.block(PROMPT, len(PROMPT), [1, 2, 3], 4)
    grown = state.block(PROMPT + OUTPUT, len(PROMPT), [8], 2)
    fresh = EditCompiler(None, vocab_size=V).new_state(params, STOP)
    fresh = fresh.block(PROMPT + OUTPUT, len(PROMPT), [8], 2)
    for one, other in zip(grown[:5], fresh[:5], strict=True):
        assert one.tolist() == other.tolist()


def test_a_row_of_a_draft_whose_tokens_are_unknown_forbids_what_never_comes():
    params = SamplingParams(bad_words=((4,), (7, 9)), min_tokens=2)
    state = EditCompiler(None, vocab_size=V).new_state(params, STOP)
    forbidden = state.proposals([1, 7], 1, 3).forbidden
    assert [sorted(ids.tolist()) for ids in forbidden] == [[4, 9, 21, 22], [4], [4]]


def test_rows_that_propose_are_biased_and_not_penalised():
    logits = some_logits(2)
    params = SamplingParams(logit_bias={3: 2.0}, repetition_penalty=2.0, presence_penalty=1.0)
    sequence = Sequence(0, PROMPT + OUTPUT, params, frozenset(), None)
    sequence.edits = EditCompiler(None, vocab_size=V).new_state(params, ())
    edited = edits_of([(ChoosingRows(0, sequence, 0, 2), None)], logits).apply(read_out(logits)).logits
    logits[:, 3] += 2.0
    assert torch.equal(edited, logits)


def test_half_precision_logits_are_edited_in_float32():
    logits = some_logits().bfloat16()
    got = edited_rows(logits, SamplingParams(logit_bias={3: 0.001}))
    assert got[0, 3] == logits[0, 3].float() + torch.tensor(0.001)


def test_rows_without_edits_keep_logits_and_likeliest_id():
    logits = some_logits(3)
    sequence = Sequence(0, [1], SamplingParams(), frozenset(), None)
    sequence.edits = EditCompiler(None, vocab_size=V).new_state(SamplingParams(bad_words=((4,),)), ())
    edited = edits_of([(ChoosingRows(0, sequence, 1, 1), ())], logits).apply(read_out(logits))
    assert torch.equal(edited.logits[[0, 2]], logits[[0, 2]])
    assert edited.logits[1, 4] == float("-inf")
    assert edited.ids.tolist() == edited.logits.argmax(-1).tolist()


def test_a_bad_text_is_spelled_with_and_without_a_space():
    tokenizer = fast_tokenizer(["ab"])
    state = EditCompiler(tokenizer, vocab_size=128).new_state(SamplingParams(bad_words=" xy"), ())
    x, y, space = (ord(letter) - 32 for letter in "xy ")
    assert state.rules.words == {x: [(space, x, y), (x, y)]}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"logit_bias": {23: 1.0}}, r"logit_bias has ids \[23\], the vocabulary has ids 0 to 22"),
        ({"bad_words": ((1, 99),)}, r"bad_words has ids \[99\]"),
        ({"allowed_token_ids": (23,)}, r"allowed_token_ids has ids \[23\]"),
        ({"bad_words": "no"}, "bad_words has the text 'no' but the engine has no tokenizer"),
        ({"allowed_token_ids": (5,), "bad_words": ((5, 5),)}, "may leave no token to choose"),
        ({"allowed_token_ids": (21, 22), "min_tokens": 1}, "may leave no token to choose"),
    ],
)
def test_what_cannot_be_had_is_named(fields, reason):
    with pytest.raises(RequestError, match=reason):
        EditCompiler(None, vocab_size=V).new_state(SamplingParams(**fields), STOP)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"repetition_penalty": 0.0}, "greater than 0"),
        ({"presence_penalty": 2.5}, "less than or equal to 2"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"logit_bias": {1: 101}}, "less than or equal to 100"),
        ({"logit_bias": [(1, 1.0), (1, 2.0)]}, "must have one bias per token id"),
        ({"bad_words": ("a", "")}, "must hold no empty string"),
        ({"bad_words": ((),)}, "must hold no empty string"),
        ({"allowed_token_ids": ()}, "allowed_token_ids"),
        ({"min_tokens": 9, "max_new_tokens": 8}, "must have min_tokens <= max_new_tokens, got 9 and 8"),
        ({"regex": "a", "min_tokens": 2}, "must have regex or min_tokens, got both"),
        ({"max_tokens": 5}, "has no max_tokens, did you mean max_new_tokens?"),
        ({"num_beams": 4}, "has no num_beams: there is no beam search"),
        ({"logits_processors": []}, "has no logits_processors: there are no callbacks"),
    ],
)
def test_params_refuse_what_makes_no_sense(fields, message):
    with pytest.raises(ValidationError) as fault:
        SamplingParams(**fields)
    assert message in str(fault.value)
