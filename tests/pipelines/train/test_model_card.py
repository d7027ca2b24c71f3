import yaml

from pipelines.train.model_card import CardFacts, model_card
from pipelines.train.rows import RowCounts

COUNTS = RowCounts(rows=10, errors=2, no_completion=1, used=7, tokens=700, completion_tokens=500)
HEAD = {"head": {"block_size": 8}, "data": {"held_out_documents": 3}, "seed": 4}
HISTORY = [
    {"step": 5, "tokens": 50, "loss": 9.0, "acceptance_length": 2.0},
    {
        "step": 9,
        "tokens": 90,
        "loss": 0.25,
        "acceptance_length": 6.5,
        "acceptance_length_at_4": 3.75,
        "accepted_at_1": 0.9,
        "accepted_at_2": 0.8,
    },
]


def card(**changes) -> str:
    facts = {
        "name": "my-head",
        "config": HEAD,
        "base": "owner/backbone",
        "base_hash": "b1",
        "mask_token": "9 (an unused id)",
        "data_fingerprint": "d1",
        "counts": COUNTS,
        "progress": {"step": 9, "tokens": 90, "seconds": 12.5, "finished": True, "history": HISTORY},
        "versions": {"torch": "2.13"},
    }
    return model_card(CardFacts(**facts | changes))


def test_the_front_matter_names_the_base_model():
    _, front, _ = card().split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "owner/backbone"


def test_acceptance_is_told_by_block_size_and_by_position():
    text = card()
    by_size = "| block size | acceptance length |\n|---|---|\n| 4 | 3.750 |\n| 8 | 6.500 |"
    by_position = "| position | accepted |\n|---|---|\n| 1 | 0.900 |\n| 2 | 0.800 |"
    assert by_size in text
    assert by_position in text
    assert "| loss | 0.2500 |" in text


def test_rows_left_out_are_told_with_reasons():
    text = card()
    assert "| rows | 10, of which 3 left out (2 errors, 1 no completion) |" in text
    assert "| tokens in the data | 700, 500 of completions |" in text
    assert "| data fingerprint | `d1` |" in text


def test_the_mask_token_is_told():
    assert "| mask token | 9 (an unused id) |" in card()


def test_the_recipe_comes_last_as_yaml():
    recipe = card().split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(recipe) == HEAD


def test_a_backbone_from_scratch_has_no_base_and_keeps_its_loss():
    history = [{"step": 1, "tokens": 5, "loss": 0.5}, {"step": 1, "tokens": 5, "right_answers": 0.75}]
    progress = {"step": 1, "tokens": 5, "seconds": 1.0, "finished": True, "history": history}
    text = card(
        config={"seed": 1},
        base=None,
        base_hash=None,
        mask_token=None,
        data_fingerprint=None,
        counts=None,
        progress=progress,
    )
    assert "base_model" not in text
    assert "| loss | 0.5000 |\n| right_answers | 0.7500 |" in text
