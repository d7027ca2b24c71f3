import pytest

from orthrus_core.choosers.schema_review import repeatable_keys, unknown_keywords


def test_unknown_keywords_are_found_wherever_schemas_stand():
    schema = {
        "maxLenght": 3,
        "properties": {"name": {"patern": "a"}, "maxItem": {"type": "string"}},
        "items": [{"anyOf": [{}, {"minimun": 1}]}],
        "$defs": {"one": {"additionalProperties": {"formt": "date"}}},
    }
    assert sorted(unknown_keywords(schema)) == [
        "$defs.one.additionalProperties.formt",
        "items.0.anyOf.1.minimun",
        "maxLenght",
        "properties.name.patern",
    ]


def test_values_and_notes_for_readers_are_no_keywords():
    schema = {"title": "a", "default": {"x": 1}, "const": {"y": 2}, "enum": [{"z": 3}], "x-guidance": {}}
    assert unknown_keywords(schema) == []


@pytest.mark.parametrize(
    "keyword", ["not", "if", "dependentRequired", "uniqueItems", "contains", "$dynamicRef"]
)
def test_what_the_library_refuses_by_its_name_is_no_unknown_keyword(keyword):
    assert unknown_keywords({keyword: {}}) == []


def test_a_place_that_a_reference_leads_to_is_no_unknown_keyword():
    schema = {"components": {"a": {"type": "string"}}, "$ref": "#/components/a"}
    assert unknown_keywords(schema) == []


def test_options_of_the_library_are_read_at_the_root_only():
    assert unknown_keywords({"items": {"x-guidance": {"lenient": True}}}) == ["items.x-guidance"]


@pytest.mark.parametrize(
    "schema",
    [
        {"minProperties": 2},
        {"type": ["object", "null"], "minProperties": 2},
        {"minProperties": 3, "properties": {"a": {}}, "required": ["a"]},
        {"minProperties": 2, "patternProperties": {"^p": {}}, "additionalProperties": False},
    ],
)
def test_two_free_keys_may_be_the_same(schema):
    place = f"minProperties: {schema['minProperties']}"
    assert repeatable_keys({"items": schema}) == [f"items.{place}"]


@pytest.mark.parametrize(
    "schema",
    [
        {"minProperties": 1},
        {"minProperties": 2, "properties": {"a": {}}, "required": ["a"]},
        {"minProperties": 2, "required": ["a", "b"]},
        {"minProperties": 2, "properties": {"a": {}, "b": {}}, "additionalProperties": False},
        {"minProperties": 2, "type": "string"},
    ],
)
def test_named_keys_and_a_single_free_one_differ(schema):
    assert repeatable_keys(schema) == []
