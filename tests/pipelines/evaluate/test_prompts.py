import json

import pytest

from orthrus_core.errors import ConfigError
from pipelines.checkpoint.directory import load_tokenizer, locate
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.prompts import describe, lengthened, read_prompt_sets


@pytest.fixture
def read(model_dir, tmp_path):
    """Write jsonl rows and read them as the set `mine`."""

    def write_and_read(content, **options):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        tree = {
            "model": {"path": str(model_dir), "device": "cpu"},
            "prompt_sets": {"mine": {"path": str(path), "column": "question"} | options},
            "decode": {"max_context": 64},
            "output": str(tmp_path / "report.json"),
        }
        config = EvaluateConfig.model_validate(tree)
        return read_prompt_sets(config, locate(config.model))[0]["mine"]

    return write_and_read


def test_prompts_go_through_the_chat_template(read, model_dir):
    prompts = read([{"question": "Add 1 and 2."}]).prompts
    text = load_tokenizer(str(model_dir)).decode(prompts[0])
    assert text == "<|im_start|>user\nAdd 1 and 2.<|im_end|>\n<|im_start|>assistant\n"


def test_the_first_rows_are_taken_and_all_are_counted(read):
    prompt_set = read([{"question": f"Add {n}."} for n in range(300)], rows=260)
    assert [row.id for row in prompt_set.rows] == [f"0:{n}" for n in range(260)]
    assert prompt_set.available == 300


def test_unusable_rows_are_counted_with_their_reason(read):
    prompt_set = read([{"question": None}, {"question": "word " * 90}, {"question": "Add 1."}])
    assert [row.id for row in prompt_set.rows] == ["0:2"]
    facts = describe(prompt_set)
    assert facts["errors"] == 2
    assert facts["first_errors"][0] == "0:0: prompt column question is null"
    assert "decode.max_context is 64" in facts["first_errors"][1]


def test_answers_are_only_read_to_be_scored(read):
    row = {"question": "Add 1.", "kind": "add", "answer": "3", "id": "a"}
    assert read([row]).rows[0].answer is None
    [scored] = read([row], score="demo", id_column="id").rows
    assert (scored.id, scored.kind, scored.answer) == ("a", "add", "3")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": "x"}], {}, "no column question"),
        ([{"question": "x"}], {"score": "demo"}, "no column kind"),
        ([], {}, "the files have no rows"),
        ([{"question": None}], {}, "no usable row; 0:0: prompt column question is null"),
    ],
)
def test_a_useless_set_is_refused_by_name(read, rows, options, message):
    with pytest.raises(ConfigError) as caught:
        read(rows, **options)
    assert str(caught.value).startswith("prompt_sets.mine: ")
    assert message in str(caught.value)


def test_a_template_makes_the_prompt(read, model_dir):
    prompts = read([{"a": 1, "b": 2}], column=None, template="Add {{ a }} and {{ b }}.", chat=False).prompts
    assert load_tokenizer(str(model_dir)).decode(prompts[0]) == "Add 1 and 2."


def test_the_answer_of_a_mathematical_question_is_read_without_a_kind(read):
    [row] = read([{"question": "Add 1 and 2.", "answer": "#### 3"}], score="math").rows
    assert (row.kind, row.answer) == (None, "#### 3")


def test_every_prompt_gets_others_before_it_up_to_the_context():
    prompts = [[1, 2], [3], [4, 5, 6]]
    assert list(lengthened(prompts, 5)) == [[3, 4, 5, 1, 2], [4, 5, 6, 1, 3], [1, 2, 4, 5, 6]]
    assert list(lengthened([[7, 8]], 5)) == [[7, 8, 7, 7, 8]]


def sets_of(model_dir, tmp_path, **sets):
    (tmp_path / "there.jsonl").write_text('{"question": "Add 1."}\n' * 4)
    tree = {
        "model": {"path": str(model_dir), "device": "cpu"},
        "prompt_sets": {
            name: {"path": str(tmp_path / f"{name}.jsonl"), "column": "question"} | options
            for name, options in sets.items()
        },
        "decode": {"max_context": 64},
        "output": str(tmp_path / "report.json"),
    }
    config = EvaluateConfig.model_validate(tree | {"rows": 3})
    return read_prompt_sets(config, locate(config.model))


def test_rows_cuts_every_set_short(model_dir, tmp_path):
    found, _ = sets_of(model_dir, tmp_path, there={})
    assert (len(found["there"].rows), found["there"].available) == (3, 4)


def test_a_set_that_need_not_be_there_is_left_out_with_its_reason(model_dir, tmp_path):
    found, absent = sets_of(model_dir, tmp_path, there={}, gone={"required": False})
    assert [*found] == ["there"]
    assert absent["gone"].startswith("prompt_sets.gone: ")


def test_every_set_that_has_to_be_there_is_named(model_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"^prompt_sets.gone: .*; prompt_sets.lost: ") as caught:
        sets_of(model_dir, tmp_path, there={}, gone={}, lost={})
    assert "\n" not in str(caught.value)


def test_an_evaluation_without_any_set_is_a_mistake(model_dir, tmp_path):
    with pytest.raises(ConfigError, match="prompt_sets.gone"):
        sets_of(model_dir, tmp_path, gone={"required": False})
