"""Masks, and a grammar's state: it follows emitted tokens and comes back from walks."""

import random

import numpy as np
import pytest
import torch

from orthrus_core import SamplingParams
from orthrus_core.choosers.grammar_compiler import GrammarCompiler
from orthrus_core.choosers.grammar_state import walk_over
from orthrus_core.choosers.masks import RowMasks, allows, bits_of
from tests.grammars import EOS, GRAMMARS, MASK, V, allowed_tokens, tokenizer


def tokens_of(mask: np.ndarray) -> list[int]:
    return [token_id for token_id in range(32 * len(mask)) if allows(mask, token_id)]


def test_a_mask_holds_token_0_in_the_lowest_bit_of_the_first_word():
    mask = bits_of([0, 3, 31, 32, 39], vocab_size=40)
    assert mask.tolist() == [1 + 8 - 2**31, 1 + 128]
    assert tokens_of(mask) == [0, 3, 31, 32, 39]


def test_ids_beyond_the_vocabulary_have_no_bit():
    assert tokens_of(bits_of([-1, 4, 40, 500], vocab_size=40)) == [4]


def test_masks_exclude_in_their_own_rows():
    logits = torch.arange(3 * 35, dtype=torch.bfloat16).reshape(3, 35)
    masks = RowMasks.of([2, 0], [bits_of([1, 34], 35), bits_of([0], 35)], torch.device("cpu"))
    masked = masks.apply(logits)
    assert masks.rows.tolist() == [2, 0]
    assert [torch.isfinite(row).nonzero()[:, 0].tolist() for row in masked] == [[1, 34], [0]]
    assert masked[0, [1, 34]].tolist() == logits[2, [1, 34]].tolist()


def random_text(source: random.Random, mask_of) -> list[int]:
    """Tokens that a grammar admits, up to its end."""
    tokens: list[int] = []
    while len(tokens) < 25:
        choice = source.choice(tokens_of(mask_of(tokens)))
        if choice == EOS:
            break
        tokens.append(choice)
    return tokens


@pytest.mark.parametrize("grammar", GRAMMARS, ids=str)
def test_after_any_walks_the_mask_is_that_of_the_emitted_tokens(grammar):
    source = random.Random(str(grammar))
    params = SamplingParams(**grammar)
    compiler = GrammarCompiler(tokenizer(), vocab_size=V, mask_token_id=MASK)

    def mask_of(tokens):
        fresh = compiler.new_state(params, [EOS])
        assert fresh.advance(tokens) == len(tokens)
        return fresh.mask

    for _ in range(6):
        state = compiler.new_state(params, [EOS])
        text = random_text(source, mask_of)
        emitted = 0
        while emitted < len(text):
            drafts = text[emitted : emitted + source.randint(0, 6)]
            if source.random() < 0.5:
                drafts = [*drafts[:-1], source.randrange(V), *drafts[-1:]]
            masks = walk_over(state, drafts)
            assert [m.tolist() for m in masks] == [
                mask_of(text[:emitted] + drafts[:n]).tolist() for n in range(len(masks))
            ]
            assert tokens_of(state.mask) == sorted(allowed_tokens(params, text[:emitted]))
            step = text[emitted : emitted + source.randint(1, 4)]
            assert state.advance(step) == len(step)
            emitted += len(step)
        assert tokens_of(state.mask) == sorted(allowed_tokens(params, text))


def test_a_walk_ends_at_what_the_grammar_refuses_and_at_its_end():
    compiler = GrammarCompiler(tokenizer(), vocab_size=V)
    state = compiler.new_state(SamplingParams(regex="ab|abb"), [EOS])
    a, b = (ord(letter) - 32 for letter in "ab")
    assert len(walk_over(state, [a, a, b])) == 2
    assert len(walk_over(state, [a, b, EOS, a])) == 3
    assert len(walk_over(state, [])) == 1
    assert state.advance([a, b, EOS, a]) == 3


def test_stop_ids_are_allowed_where_the_grammar_may_end_and_the_mask_token_nowhere():
    other_stop = MASK
    compiler = GrammarCompiler(tokenizer(), vocab_size=V)
    a = ord("a") - 32
    state = compiler.new_state(SamplingParams(regex="a+"), [other_stop])
    assert EOS not in tokens_of(state.mask) + [other_stop] * allows(state.mask, other_stop)
    state.advance([a])
    assert {a, other_stop} <= set(tokens_of(state.mask))
    assert EOS not in tokens_of(state.mask)


def test_a_walk_into_a_dead_end_comes_back():
    """ "aü" begins, but no token of the vocabulary goes on."""
    compiler = GrammarCompiler(tokenizer(), vocab_size=V)
    a, b = (ord(letter) - 32 for letter in "ab")
    state = compiler.new_state(SamplingParams(choices=("bb", "aü")), [EOS])
    assert len(walk_over(state, [a, b])) == 1
    assert state.error is None
    assert state.advance([b, b]) == 2
    assert tokens_of(state.mask) == [EOS]
