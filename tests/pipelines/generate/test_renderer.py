"""Prompts that are too long, and how they are cut."""

import pytest

from orthrus_core.errors import RequestError
from pipelines.checkpoint import load_tokenizer
from pipelines.generate.config import PromptConfig
from pipelines.generate.renderer import PromptRenderer

WORDS = " ".join(f"word{n}" for n in range(60))
FRAME = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer(model_dir):
    return load_tokenizer(str(model_dir))


@pytest.fixture
def render(tokenizer):
    def cut(row, max_new_tokens=10, *, max_context=64, **prompt):
        return PromptRenderer(tokenizer, PromptConfig(**prompt), max_context).prompt(row, max_new_tokens)

    return cut


def user_text(tokenizer, prompt) -> str:
    """What stands between the parts of the frame."""
    text = tokenizer.decode(prompt.ids)
    assert text.startswith(FRAME[0])
    assert text.endswith(FRAME[1])
    return text[len(FRAME[0]) : -len(FRAME[1])]


@pytest.mark.parametrize(("side", "keeps_end"), [("truncate_left", True), ("truncate_right", False)])
def test_only_the_users_text_is_cut_and_the_frame_stays(render, tokenizer, side, keeps_end):
    prompt = render({"q": WORDS}, column="q", overlong=side)
    whole = len(render({"q": WORDS}, column="q", max_context=4096).ids)
    left = user_text(tokenizer, prompt)
    assert WORDS.endswith(left) if keeps_end else WORDS.startswith(left)
    assert 51 <= len(prompt.ids) <= 54  # 64 less 10; tokens may join at the cut
    assert prompt.truncated_tokens == whole - len(prompt.ids)


def test_a_prompt_that_fits_is_not_touched(render):
    short = render({"q": "hello"}, column="q", overlong="truncate_left")
    assert short == render({"q": "hello"}, column="q")
    assert short.truncated_tokens == 0


def test_the_room_of_the_config_goes_before_the_rows_limit(render):
    assert 31 <= len(render({"q": WORDS}, 10, column="q", overlong="truncate_left", room=30).ids) <= 34


def test_a_limit_that_leaves_no_room_is_an_error(render):
    with pytest.raises(RequestError, match="no room for a prompt: 64 tokens are kept free"):
        render({"q": "hello"}, 64, column="q", overlong="truncate_left")


def test_a_frame_that_does_not_fit_is_an_error(render):
    with pytest.raises(RequestError, match=r"prompt has \d+ tokens, \d+ without what users say, and 54 fit"):
        render({"q": "hello"}, column="q", system=WORDS, overlong="truncate_left")


@pytest.mark.parametrize(("side", "kept"), [("truncate_left", "last"), ("truncate_right", "first")])
def test_of_a_conversation_the_oldest_or_the_newest_question_is_cut_first(render, tokenizer, side, kept):
    messages = [
        {"role": "user", "content": "first" + " 1 2 3 4 5" * 8},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "6 7 8 9 0 " * 8 + "last"},
    ]
    ids = render({"m": messages}, max_context=120, messages="m", overlong=side).ids
    text = tokenizer.decode(ids)
    assert "answer" in text
    assert kept in text
    assert text.count("<|im_start|>") == 4
    whole = messages[2 if kept == "last" else 0]["content"]
    assert whole in text


@pytest.mark.parametrize("side", ["truncate_left", "truncate_right"])
def test_without_chat_ids_are_cut(render, tokenizer, side):
    whole = tokenizer.encode(WORDS)
    prompt = render({"q": WORDS}, column="q", chat=False, overlong=side)
    assert prompt.ids == (whole[-54:] if side == "truncate_left" else whole[:54])
    assert prompt.truncated_tokens == len(whole) - 54


def test_special_tokens_around_a_cut_text_stay(render, tokenizer, monkeypatch):
    plain = tokenizer.encode(WORDS, add_special_tokens=False)
    encode = type(tokenizer).encode

    def with_ends(self, text, add_special_tokens=True):
        ids = encode(self, text, add_special_tokens=False)
        return [1, *ids, 2] if add_special_tokens else ids

    monkeypatch.setattr(type(tokenizer), "encode", with_ends)
    prompt = render({"q": WORDS}, column="q", chat=False, overlong="truncate_left")
    assert prompt.ids == [1, *plain[-52:], 2]


def test_characters_stand_for_tokens_where_the_tokenizer_has_no_offsets(render, tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
    prompt = render({"q": WORDS}, column="q", overlong="truncate_left")
    assert WORDS.endswith(user_text(tokenizer, prompt))
    assert 40 <= len(prompt.ids) <= 54


def test_characters_of_several_tokens_stay_whole(render, tokenizer):
    text = "\N{SNOWMAN}\N{GRINNING FACE}" * 40
    assert text.endswith(user_text(tokenizer, render({"q": text}, column="q", overlong="truncate_left")))
