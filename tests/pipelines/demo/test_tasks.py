from itertools import islice
from random import Random

import pytest

from orthrus_core.errors import ConfigError
from pipelines.demo.tasks import KINDS, Task, generate_task, generate_tasks, is_right, split_of
from pipelines.demo.tasks.arithmetic import add
from pipelines.demo.tasks.task import single_task


def test_the_same_seed_gives_the_same_tasks():
    assert list(generate_tasks(3, 200)) == list(generate_tasks(3, 200))


def test_another_seed_gives_other_tasks():
    assert list(generate_tasks(3, 200)) != list(generate_tasks(4, 200))


def test_a_longer_stream_starts_like_a_shorter_one():
    assert list(islice(generate_tasks(3, 500), 100)) == list(generate_tasks(3, 100))


def test_no_prompt_is_both_trained_on_and_held_out():
    trained = {task.prompt for task in generate_tasks(0, 20_000, "train")}
    held_out = {task.prompt for task in generate_tasks(0, 2_000, "heldout")}
    assert not trained & held_out


def test_the_split_of_a_prompt_never_changes():
    # First byte of the SHA-256 of each prompt, out of 256; below 0.05 * 256 = 12.8 is held out.
    assert split_of("What is 34 + 27?") == "train"  # 0xef
    assert split_of("prompt 19") == "heldout"  # 0x0b


def test_about_one_prompt_in_twenty_is_held_out():
    rng = Random(0)
    share = sum(split_of(generate_task(rng).prompt) == "heldout" for _ in range(5_000)) / 5_000
    assert 0.04 < share < 0.06


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="split must be one of"):
        list(generate_tasks(0, 1, "test"))  # type: ignore[arg-type]


def test_the_completion_is_a_function_of_the_prompt():
    seen: dict[str, str] = {}
    for task in generate_tasks(5, 30_000):
        assert seen.setdefault(task.prompt, task.completion) == task.completion


def test_about_one_task_in_ten_joins_two_kinds():
    joined = [task for task in generate_tasks(0, 5_000) if "+" in task.kind]
    assert 0.08 < len(joined) / 5_000 < 0.12
    assert all(len(task.answer.split("\n")) == 2 for task in joined)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_reference_completion_is_right_and_a_damaged_one_is_wrong(kind):
    rng = Random(1)
    for task in (single_task(kind, rng) for _ in range(50)):
        assert is_right(task, task.completion)
        assert not is_right(task, task.completion.replace("Answer: ", "Answer: x"))
        assert not is_right(task, task.completion.split("Answer:")[0])
        assert not is_right(task, task.completion + "\nAnswer: 1")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_has_several_wordings_and_many_prompts(kind):
    rng = Random(2)
    assert len({single_task(kind, rng).prompt for _ in range(300)}) > 200


def test_every_sum_on_the_page_is_true():
    for task in generate_tasks(6, 5_000):
        for left, right in _equations(task.completion):
            assert _value(left) == int(right), task.completion


def _equations(text: str) -> list[tuple[str, str]]:
    """Find `a op b = c` with spaces around the signs."""
    words = text.replace(".", " ").replace(",", " ").replace(";", " ").split()
    return [
        (" ".join(words[i - 3 : i]), words[i + 1])
        for i, word in enumerate(words)
        if word == "=" and i >= 3 and words[i - 2] in "+-x/"
    ]


def _value(expression: str) -> float:
    left, sign, right = expression.split()
    a, b = int(left), int(right)
    if sign == "/":
        return a / b
    return {"+": a + b, "-": a - b, "x": a * b}[sign]


def test_an_addition_reads_as_written_by_hand():
    task = Task("add", "What is 34 + 27?", "34 + 27 = 61.\nAnswer: 61", "61")
    assert is_right(task, "I think it is this.\nAnswer:  61.")
    assert not is_right(task, "Answer: 6")
    assert not is_right(task, "61")
    assert single_task(add, Random(0)).kind == "add"


def test_json_answers_are_compared_without_spacing_but_with_order_and_values():
    task = Task("facts_to_json", "?", "", '{"name": "Ada", "age": 34}')
    assert is_right(task, 'Answer: {"name":"Ada","age":34}')
    assert not is_right(task, 'Answer: {"name":"Ada","age":"34"}')
    assert not is_right(task, 'Answer: {"name":"Ada","age":34')


def test_both_answers_of_a_joined_task_must_be_right_and_in_order():
    task = Task("add+double", "?", "", "61\n8")
    assert is_right(task, "First: so.\nAnswer: 61\nThen: so.\nAnswer: 8")
    assert not is_right(task, "Answer: 8\nAnswer: 61")
    assert not is_right(task, "Answer: 61")
