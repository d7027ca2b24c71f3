"""Stop strings: found at the very token that completes them, as if all text were decoded at every token."""

import random

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.engine.stop import cut_at_stop
from orthrus_core.text.stop_strings import StopStrings, cut_text
from tests.small_models import small_orthrus
from tests.tokenizers import BareTokenizer, ByteTokenizer

V = 97
EMOJI = "🙂".encode()  # four bytes
PIECES = [b"a", b"b", b"ab", b"ba", b"\n", b"\n\n", b" ", "é".encode(), *(EMOJI[i : i + 1] for i in range(4))]
SPECIAL = len(PIECES)


def end_of(ids, stop, tokenizer):
    """How many tokens until a stop string is found, and which."""
    strings = StopStrings(stop, tokenizer)
    for count, token_id in enumerate(ids, start=1):
        if strings.push(token_id):
            return count, strings.found
    return None, None


def end_by_decoding_all(ids, stop, tokenizer):
    """The definition: the first token at which the whole text contains a stop string."""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], skip_special_tokens=True)
        places = [(text.find(one), stop.index(one)) for one in stop if one in text]
        if places:
            return count, stop[min(places)[1]]
    return None, None


def letters(text: str) -> list[int]:
    return [ord(letter) - 33 for letter in text]


def test_a_string_across_token_borders_ends_at_its_last_token():
    assert end_of(letters("xySTOPz"), ("STOP",), ByteTokenizer.of_letters(V)) == (6, "STOP")


def test_a_string_inside_one_token_ends_there():
    assert end_of([0, 2, 1], ("ab",), ByteTokenizer(PIECES)) == (2, "ab")


def test_a_character_is_found_when_its_last_byte_is_there():
    assert end_of([0, 8, 9, 10, 11, 0], ("🙂",), ByteTokenizer(PIECES)) == (5, "🙂")


def test_bytes_that_never_become_a_character_hide_nothing_behind_them():
    assert end_of([8, 9, 0, 8, 1], ("a",), ByteTokenizer(PIECES)) == (3, "a")


def test_the_string_that_begins_first_is_named():
    tokenizer = ByteTokenizer([b"x", b"yab"])
    assert end_of([0, 1], ("ab", "ya"), tokenizer) == (2, "ya")
    assert end_of([0, 1], ("xy", "xya"), tokenizer) == (2, "xy")


def test_special_tokens_stand_in_no_text():
    tokenizer = ByteTokenizer([*PIECES, b"<end>"], special_ids=[SPECIAL])
    assert end_of([0, SPECIAL, 1], ("<end>",), tokenizer) == (None, None)
    assert end_of([0, SPECIAL, 1], ("ab",), tokenizer) == (3, "ab")


@pytest.mark.parametrize("seed", range(60))
def test_the_end_is_that_of_decoding_all_text_at_every_token(seed):
    source = random.Random(seed)
    tokenizer = ByteTokenizer([*PIECES, b"<end>"], special_ids=[SPECIAL])
    ids = [source.randrange(len(PIECES) + 1) for _ in range(150)]
    # any letters of what was written, so that long strings are found too
    text = tokenizer.decode(ids[80:], skip_special_tokens=True)
    starts = [source.randrange(len(text) - 12) for _ in range(3)]
    cuts = [text[start : start + source.randint(1, 12)] for start in starts]
    stop = tuple(cut for cut in cuts if "\N{REPLACEMENT CHARACTER}" not in cut) or ("\n \n", "éa")
    assert end_of(ids, stop, tokenizer) == end_by_decoding_all(ids, stop, tokenizer)


STYLES = ["byte-level", "byte-fallback", "unigram", "word-piece"]
WORDS = [" the", " a", "ab", "b", " ab", "\n", " \n", ".", ",", " ", "n't", "日本", "é", " é", "  "]
LETTERS = "ກຂຄງຈສຊ" + "አበገደ" + "ආඇඈ" + "éß" + "🙂🙃"  # of three, two and four bytes


def random_tokens(source: random.Random, tokenizer: BareTokenizer) -> list[int]:
    """Words, letters byte by byte where there are byte tokens, and now and then bytes that are no letter."""
    strangeness = source.choice([0.0, 0.0, 0.02, 0.2])
    letters = source.choice([0.2, 0.6, 0.95])
    ids: list[int] = []
    while len(ids) < 48:
        if source.random() < strangeness:
            ids.append(source.choice([tokenizer.special_id, *tokenizer.byte_ids]))
        elif tokenizer.byte_ids and source.random() < letters:
            text = source.choice(LETTERS) + source.choice(["", "", "", "\n"])
            ids += [tokenizer.byte_ids[byte] for byte in text.encode()]
        else:
            ids.append(source.choice(tokenizer.piece_ids))
    return ids


@pytest.mark.parametrize("style", STYLES)
def test_the_end_is_that_of_decoding_all_text_with_every_style_of_tokenizer(style):
    tokenizer = BareTokenizer(style, WORDS)
    source = random.Random(style)
    num_found = 0
    for _ in range(2000):
        ids = random_tokens(source, tokenizer)
        text = tokenizer.decode(ids[30:], skip_special_tokens=True)
        start = source.randrange(max(1, len(text)))
        cut = text[start : start + source.randint(1, 8)]
        stop = ("\n",) if not cut or "\N{REPLACEMENT CHARACTER}" in cut else (cut, "\n\n")
        ids = ids[source.randint(0, 8) :]
        expected = end_by_decoding_all(ids, stop, tokenizer)
        assert end_of(ids, stop, tokenizer) == expected, (ids, stop)
        num_found += (expected[0] or 0) > 24
    assert num_found > 200  # behind the first window


def test_a_real_tokenizer_gives_the_end_of_decoding_all_text():
    tokenizer = AutoTokenizer.from_pretrained("pipelines/demo/model")
    text = "Über 3 Äpfel: 🙂🙃 naïve — 日本語 text, and then some more of it. " * 3 + "Answer:\n\nnext"
    ids = tokenizer.encode(text)
    for stop in [("🙃 n",), ("本語",), ("— 日",), (":\n\n",), ("more of it. Ü",), ("nowhere",)]:
        assert end_of(ids, stop, tokenizer) == end_by_decoding_all(ids, stop, tokenizer)


@pytest.mark.parametrize("pieces", [PIECES, [b"\x9f"] * len(PIECES)], ids=["text", "never a character"])
def test_a_token_is_decoded_with_few_others_wherever_it_stands(pieces):
    tokenizer = ByteTokenizer(pieces)
    assert end_of([0, 1, 2, 3] * 500, ("nowhere",), tokenizer) == (None, None)
    assert tokenizer.longest_call < 100


def cut(new_ids, stop, **limits):
    options = {"stop_ids": (), "length_left": 99, "context_left": 99} | limits
    strings = StopStrings(stop, ByteTokenizer.of_letters(V))
    return cut_at_stop(letters(new_ids), stop_strings=strings, **options), strings.found


def test_a_string_inside_the_block_ends_it_and_what_follows_is_cut():
    assert cut("abSTOPcd", ("STOP",)) == ((letters("abSTOP"), "stop"), "STOP")


def test_a_stop_id_before_the_string_wins_and_no_string_is_named():
    assert cut("aSbTOP", ("SbT",), stop_ids=letters("b")) == ((letters("aSb"), "stop"), None)


def test_a_string_at_the_last_allowed_token_counts_as_stop():
    assert cut("abc", ("bc",), length_left=3) == ((letters("abc"), "stop"), "bc")
    assert cut("abc", ("bc",), length_left=2) == ((letters("ab"), "length"), None)


def test_text_is_cut_before_the_string_or_behind_it():
    assert cut_text("one\n\ntwo", "\n\n", include=False) == "one"
    assert cut_text("one\n\ntwo", "\n\n", include=True) == "one\n\n"
    assert cut_text("one\n\ntwo", None, include=False) == "one\n\ntwo"


def free_text(model, prompt, **params) -> tuple[list[int], str]:
    engine = Engine(model, EngineConfig(max_context=64, self_check=False))
    ids = engine.generate([prompt], SamplingParams(max_new_tokens=20, **params))[0].token_ids
    return ids, ByteTokenizer.of_letters(V).decode(ids)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["consensus", "autoregressive"])
def test_the_engine_ends_a_completion_where_its_text_first_contains_the_string(mode, temperature):
    model = small_orthrus(sameness=0.2)
    ids, text = free_text(model, [1, 2, 3], temperature=temperature)
    stop = text[9:11]
    end = text.find(stop) + 2
    engine = Engine(
        model,
        EngineConfig(mode=mode, max_context=64, self_check=False),
        tokenizer=ByteTokenizer.of_letters(V),
    )
    params = SamplingParams(max_new_tokens=20, temperature=temperature, stop=("no such text", stop))
    [completion] = engine.generate([[1, 2, 3]], params)
    assert completion.token_ids == ids[:end]
    assert (completion.finish_reason, completion.stop_string) == ("stop", stop)


def test_without_a_match_no_string_is_named():
    engine = Engine(
        small_orthrus(), EngineConfig(max_context=64, self_check=False), ByteTokenizer.of_letters(V)
    )
    [completion] = engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=5, stop="no such text"))
    assert (completion.finish_reason, completion.stop_string) == ("length", None)


def test_without_a_tokenizer_a_request_with_stop_strings_ends_with_an_error():
    engine = Engine(small_orthrus(), EngineConfig(max_context=64, self_check=False))
    params = [SamplingParams(max_new_tokens=5, stop="\n"), SamplingParams(max_new_tokens=5)]
    refused, other = engine.generate([[1, 2], [1, 2]], params)
    assert (refused.finish_reason, refused.token_ids) == ("error", [])
    assert refused.error == (
        "stop has ['\\n'] but the engine has no tokenizer to find them with: "
        "pass Engine(model, config, tokenizer=...), or use stop_token_ids"
    )
    assert other.finish_reason == "length"


def test_one_string_is_a_list_of_one_and_an_empty_one_is_refused():
    assert SamplingParams(stop="\n").stop == ("\n",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")
    with pytest.raises(ValidationError, match="must hold no empty string"):
        SamplingParams(stop=["a", ""])
