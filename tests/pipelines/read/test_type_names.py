"""Types by name."""

import pyarrow as pa
import pytest

from pipelines.read.arrow_types import JSON_TEXT
from pipelines.read.type_names import parse_type


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("string", pa.string()),
        (" double ", pa.float64()),
        ("list<int32>", pa.list_(pa.int32())),
        ("list<list<bool>>", pa.list_(pa.list_(pa.bool_()))),
        ("json", JSON_TEXT),
        (
            "list<struct<role: string, parts: struct<a: int64, b: list<string>>>>",
            pa.list_(
                pa.struct(
                    [
                        ("role", pa.string()),
                        ("parts", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])),
                    ]
                )
            ),
        ),
    ],
)
def test_a_name_stands_for_a_type(text, kind):
    assert parse_type(text) == kind


@pytest.mark.parametrize("text", ["text", "list<>", "struct<a>", "list<json>", "", "map<a, b>"])
def test_an_unknown_name_is_refused(text):
    with pytest.raises(ValueError, match=r"must be types such as string, .* got '"):
        parse_type(text)
