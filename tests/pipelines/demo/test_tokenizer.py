from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipelines import demo
from pipelines.demo.rows import render_task
from pipelines.demo.tasks import generate_tasks
from pipelines.demo.tokenizer import build_tokenizer, write_tokenizer

SHIPPED = Path(demo.__file__).parent / "model"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SHIPPED)


def test_building_again_gives_the_shipped_tokenizer(tmp_path):
    write_tokenizer(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / file).read_bytes() == (SHIPPED / file).read_bytes()


def test_the_vocabulary_size_is_kept():
    assert len(build_tokenizer(seed=1, num_tasks=500, vocab_size=400)) == 400


def test_the_shipped_tokenizer_has_1024_entries_and_four_special_tokens(tokenizer):
    assert len(tokenizer) == 1024
    assert [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id] == [0, 2, 3]
    assert tokenizer.convert_ids_to_tokens(1) == "<|im_start|>"


@given(text=st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_survives_a_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_digit_is_one_token(tokenizer):
    assert tokenizer.tokenize("1984 x 305") == ["1", "9", "8", "4", "Ġx", "Ġ", "3", "0", "5"]


def test_the_template_renders_all_three_roles(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_rendered_task_is_the_start_of_the_templated_conversation(tokenizer):
    for task in generate_tasks(2, 100):
        prompt_ids, completion_ids = render_task(tokenizer, task)
        messages = [
            {"role": "user", "content": task.prompt},
            {"role": "assistant", "content": task.completion},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert [*prompt_ids, *completion_ids] == tokenizer(text)["input_ids"][:-1]  # all but the last newline


def test_a_rendered_completion_decodes_to_the_text_without_special_tokens(tokenizer):
    task = next(generate_tasks(2, 1))
    _, completion_ids = render_task(tokenizer, task)
    assert completion_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(completion_ids, skip_special_tokens=True) == task.completion
