"""Which columns travel from input to output."""

import pyarrow as pa
import pytest

from orthrus_core.errors import ConfigError
from pipelines.read.choose_columns import choose_layout

SCHEMA = pa.schema([("key", pa.int64()), ("question", pa.large_string()), ("score", pa.float32())])


def layout(schema=SCHEMA, *, carry=None, id_column=None, **options):
    return choose_layout(schema, needed=["question"], carry=carry, id_column=id_column, **options)


def test_all_input_columns_are_carried_with_their_types_by_default():
    assert layout().carried == SCHEMA


def test_only_the_columns_asked_for_are_carried_but_the_needed_are_read():
    chosen = layout(carry=["score"], id_column="key")
    assert chosen.carried.names == ["score"]
    assert chosen.read == ("question", "key", "score")


def test_the_output_has_identity_first_then_carried_then_results():
    names = layout(carry=["score"], token_ids=True).output.names
    assert names[:4] == ["id", "sample", "score", "completion"]
    assert names[-2:] == ["seed", "token_ids"]


def test_optional_columns_stand_at_the_end_in_one_order():
    names = layout(carry=[], token_ids=True, prompt_token_ids=True, logprobs=True).output.names
    assert names[-4:] == ["seed", "logprobs", "token_ids", "prompt_token_ids"]


def test_an_id_column_named_id_is_not_carried_twice():
    schema = SCHEMA.append(pa.field("id", pa.string()))
    assert "id" not in layout(schema, id_column="id").carried.names


def test_an_input_column_named_id_must_be_named_as_the_id():
    schema = SCHEMA.append(pa.field("id", pa.string()))
    with pytest.raises(ConfigError, match="set input.id_column: id"):
        layout(schema)


def test_other_collisions_with_output_columns_are_refused():
    schema = SCHEMA.append(pa.field("error", pa.string()))
    with pytest.raises(
        ConfigError, match=r"names of output columns: error; set output\.rename: \{error: gen"
    ):
        layout(schema)


def test_an_input_column_is_carried_beside_an_output_column_of_its_name_that_is_renamed():
    schema = SCHEMA.append(pa.field("error", pa.int8())).append(pa.field("id", pa.string()))
    chosen = layout(schema, rename={"error": "why", "id": "row"})
    assert chosen.written.names[:8] == [
        "row",
        "sample",
        "key",
        "question",
        "score",
        "error",
        "id",
        "completion",
    ]
    assert [chosen.written.field(name).type for name in ("error", "why")] == [pa.int8(), pa.string()]
    assert len(set(chosen.output.names)) == len(chosen.written.names)


def test_a_new_name_that_an_input_column_has_is_refused():
    with pytest.raises(ConfigError, match="names of output columns: score"):
        layout(rename={"error": "score"})


def test_the_advice_for_a_renamed_column_names_the_output_column():
    with pytest.raises(ConfigError, match=r"set output\.rename: \{completion: generated_question\}, or list"):
        layout(rename={"completion": "question"})


def test_a_name_that_no_renaming_frees_is_left_out_by_carry():
    schema = SCHEMA.append(pa.field("__orthrus_x", pa.string()))
    with pytest.raises(ConfigError, match="__orthrus_x; list the columns to keep in input.carry$"):
        layout(schema)


def test_without_diagnostics_their_names_are_free():
    schema = SCHEMA.append(pa.field("steps", pa.int8()))
    written = layout(schema, diagnostics=False).written
    assert written.field("steps").type == pa.int8()
    assert not {"forwards", "drafted", "mean_logprob"} & set(written.names)
    assert {"completion", "error", "completion_tokens", "exactness", "seed"} < set(written.names)


def test_a_table_comes_back_from_its_file_as_it_went_but_for_what_was_left_out():
    schema = SCHEMA.append(pa.field("error", pa.string()))
    chosen = layout(schema, rename={"error": "why"}, diagnostics=False)
    table = pa.table([pa.nulls(2, one.type) for one in chosen.output], chosen.output)
    table = table.set_column(table.column_names.index("error"), "error", pa.array(["a", None]))
    written = chosen.to_file(table)
    assert written.column("why").to_pylist() == ["a", None]
    assert written.column("error").to_pylist() == [None, None]
    assert chosen.from_file(written) == table


def test_a_carried_column_must_exist():
    with pytest.raises(ConfigError, match="input.carry: no column nope; there are key, question, score"):
        layout(carry=["nope"])


def test_a_seed_column_called_seed_is_not_carried_twice():
    schema = SCHEMA.append(pa.field("seed", pa.int32()))
    chosen = layout(schema, seed_column="seed")
    assert "seed" not in chosen.carried.names
    assert chosen.output.field("seed").type == pa.int64()
    with pytest.raises(ConfigError, match="names of output columns: seed"):
        layout(schema, seed_column="key")


def test_side_files_have_the_reason_at_the_end():
    assert layout().dropped.names == [*layout().output.names, "dropped_reason"]
