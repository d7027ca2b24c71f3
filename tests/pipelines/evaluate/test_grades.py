import sys
from types import SimpleNamespace

import pytest

from orthrus_core.errors import ConfigError
from pipelines.evaluate.config import PromptSetConfig
from pipelines.evaluate.grades import check_grader, grade, summary
from pipelines.evaluate.prompts import PromptRow

SUMS = [
    PromptRow("a", [1], kind="add", answer="3"),
    PromptRow("b", [1], kind="add", answer="5"),
    PromptRow("c", [1], kind="trip+add", answer="4 days\n7"),
]
SUM_TEXTS = ["1 and 2.\nAnswer: 3.", "It is 5.", "First: so.\nAnswer: 4 days\nThen: so.\nAnswer: 7"]


def test_the_demos_answers_are_checked_by_its_rule():
    assert grade("demo", SUMS, SUM_TEXTS) == [True, False, True]


def test_grades_are_counted_by_mode_and_by_kind():
    assert summary(SUMS, ar=[True, False, True], consensus=[True, True, True]) == {
        "rows": 3,
        "right": 2,
        "share": pytest.approx(2 / 3),
        "by_kind": {"add": [1, 2], "trip+add": [1, 1]},
        "consensus_right": 3,
        "graded_alike": 2,
    }


def test_rows_without_a_kind_are_not_counted_by_kind():
    assert summary([PromptRow("a", [1], answer="3")], [True], [True])["by_kind"] == {}


def test_the_answer_of_gsm8k_is_what_follows_the_last_mark(monkeypatch):
    asked = []
    fake = SimpleNamespace(
        parse=lambda text: text, verify=lambda gold, text: asked.append((gold, text)) or True
    )
    monkeypatch.setitem(sys.modules, "math_verify", fake)
    rows = [PromptRow("a", [1], answer="2 + 16 = <<2+16=18>>18\n#### 18"), PromptRow("b", [1], answer="x^2")]
    assert grade("math", rows, ["So it is 18.", "x"]) == [True, True]
    assert asked == [("$18$", "So it is 18."), ("$x^2$", "x")]


def test_math_verify_reads_numbers_in_sentences():
    pytest.importorskip("math_verify")
    rows = [PromptRow("a", [1], answer="#### 1,080")] * 3
    texts = ["So she earns $1080 a day.", "It is \\boxed{1080}.", "2 times 540 is 1,081."]
    assert grade("math", rows, texts) == [True, True, False]


@pytest.mark.parametrize("score", ["code", None])
def test_code_is_not_run(score):
    assert grade(score, SUMS, SUM_TEXTS) is None


def test_a_grader_that_is_not_installed_is_named_with_its_repair(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    source = PromptSetConfig(path="x", column="y", score="math")
    with pytest.raises(ConfigError, match=r"prompt_sets.mine.score: .*pip install math-verify"):
        check_grader("mine", source)
