"""Cells of a messages column, in the forms in which data sets have them."""

import json

import pyarrow as pa
import pytest

from orthrus_core.errors import RequestError
from pipelines.generate.prompt.messages import read_messages
from pipelines.read.own_rows import own_rows

CALL = {"name": "add", "arguments": {"a": 1}}


def fault(value) -> str:
    with pytest.raises(RequestError) as caught:
        read_messages(value, "m")
    return str(caught.value)


def call_of(calls) -> list:
    [message] = read_messages([{"role": "assistant", "tool_calls": calls}], "m")
    return message["tool_calls"]


def test_a_list_of_messages_is_taken_as_it_is():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]
    assert read_messages(messages, "m") == messages


def test_a_list_may_be_json_text():
    messages = [{"role": "user", "content": "hi"}]
    assert read_messages(json.dumps(messages), "m") == messages


@pytest.mark.parametrize(
    ("speaker", "role"),
    [
        ("human", "user"),
        ("gpt", "assistant"),
        ("system", "system"),
        ("tool", "tool"),
        ("observation", "tool"),
    ],
)
def test_sharegpt_speakers_have_roles(speaker, role):
    assert read_messages([{"from": speaker, "value": "x"}], "m") == [{"role": role, "content": "x"}]


def test_text_parts_are_lines_of_one_text():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert read_messages([{"role": "user", "content": parts}], "m")[0]["content"] == "one\ntwo"


@pytest.mark.parametrize("message", [{"content": None}, {}])
def test_a_turn_of_tool_calls_needs_no_content(message):
    calls = [{"function": CALL}]
    [found] = read_messages([{"role": "assistant", "tool_calls": calls, **message}], "m")
    assert found == {"role": "assistant", "content": None, "tool_calls": calls}


def test_an_empty_list_of_tool_calls_is_none():
    message = {"role": "assistant", "content": "x", "tool_calls": []}
    assert read_messages([message], "m") == [{"role": "assistant", "content": "x"}]


@pytest.mark.parametrize(
    ("calls", "found"),
    [
        ([{"function": {"name": "add", "arguments": '{"a": 1}'}}], [{"function": CALL}]),
        ([{"name": "add", "arguments": '{"a": 1}'}], [CALL]),
        (json.dumps([CALL]), [CALL]),
        ([{"name": "now", "arguments": ""}], [{"name": "now", "arguments": {}}]),
        ([{"name": "now"}], [{"name": "now"}]),
    ],
)
def test_arguments_of_calls_are_objects(calls, found):
    assert call_of(calls) == found


def test_other_keys_of_a_message_stay_but_nulls():
    message = {"role": "tool", "content": "5", "name": "add", "tool_call_id": None}
    assert read_messages([message], "m") == [{"role": "tool", "content": "5", "name": "add"}]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "messages column m is null"),
        ([], "messages column m must be a list of at least one message"),
        ("hello", "messages column m is text, but no JSON: Expecting value"),
        ('{"role": "user"}', "messages column m must be a list of at least one message"),
        (["hi"], "messages column m: message 0 has no text role"),
        ([{"role": "user", "content": None}], "messages column m: message 0 has no text content"),
        ([{"role": "user", "content": 5}], "messages column m: message 0 has no text content"),
        (
            [{"from": "bob", "value": "x"}],
            "messages column m: message 0 is from 'bob'; known are human, user",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
            "messages column m: message 0: content part 0 is 'image_url'; only text can be rendered",
        ),
        ([{"from": ["human"], "value": "x"}], "messages column m: message 0 is from ['human']; known are"),
        ([{"role": "user", "tool_calls": [CALL]}], "messages column m: message 0 has no text content"),
        (
            [{"role": "user", "content": [{"type": "text"}]}],
            "messages column m: message 0: content part 0 has no text",
        ),
        (
            [{"role": "assistant", "tool_calls": ["f"]}],
            "messages column m: message 0: tool_calls must be a list of objects",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}],
            "messages column m: message 0: tool call 0: arguments must be an object, got '[1]'",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{a"}]}],
            "messages column m: message 0: tool call 0: arguments is text, but no JSON",
        ),
    ],
)
def test_what_is_no_message_is_named(value, reason):
    assert fault(value).startswith(reason)


MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
ARROW_LISTS = {
    "list": pa.list_(MESSAGE),
    "large_list": pa.large_list(MESSAGE),
    "fixed_size_list": pa.list_(MESSAGE, 2),
    "list_view": pa.list_view(MESSAGE),
    "list_of_maps": pa.list_(pa.map_(pa.string(), pa.string())),
}


@pytest.mark.parametrize("kind", ARROW_LISTS)
def test_every_arrow_list_of_messages_is_read(kind):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    as_maps = [[list(message.items()) for message in messages]]
    values = as_maps if kind == "list_of_maps" else [messages]
    table = pa.table({"m": pa.array(values, ARROW_LISTS[kind])})
    [row] = own_rows(table, ["m"], [None], structured=["m"])
    assert read_messages(row["m"], "m") == messages
