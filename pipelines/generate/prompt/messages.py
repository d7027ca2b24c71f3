"""A cell of a messages column as messages, whatever form they are stored in."""

import json
from typing import Any

from orthrus_core.errors import RequestError

Message = dict[str, Any]

# Who speaks in ShareGPT's {from, value}.
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}


def read_messages(value: Any, name: str) -> list[Message]:
    """The messages of a cell; `content` is text, or None beside an assistant's `tool_calls`.

    Args:
        value: a list of {role, content} or {from, value}, or the JSON text of one.
        name: the column.
    Raises:
        RequestError: naming the message and what is wrong with it.
    """
    where = f"messages column {name}"
    if value is None:
        raise RequestError(f"{where} is null")
    value = parsed(value, where)
    if not isinstance(value, list) or not value:
        raise RequestError(f"{where} must be a list of at least one message")
    return [_message(one, f"{where}: message {number}") for number, one in enumerate(value)]


def parsed(value: Any, where: str) -> Any:
    """What a text says as JSON; any other value as it is.

    Raises:
        RequestError: text that is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise RequestError(f"{where} is text, but no JSON: {error}") from None


def _message(value: Any, where: str) -> Message:
    given = value if isinstance(value, dict) else {}
    message = {key: cell for key, cell in given.items() if cell is not None}
    if "role" not in message and "from" in message:
        message = _of_sharegpt(message, where)
    if not isinstance(message.get("role"), str):
        raise RequestError(f"{where} has no text role")
    calls = _tool_calls(message.pop("tool_calls", None), where)
    content = _text(message.pop("content", None), where)
    if content is None and not (calls and message["role"] == "assistant"):
        raise RequestError(f"{where} has no text content")
    return message | {"content": content} | ({"tool_calls": calls} if calls else {})


def _of_sharegpt(message: Message, where: str) -> Message:
    speaker = message.pop("from")
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise RequestError(f"{where} is from {speaker!r:.40}; known are {', '.join(SPEAKERS)}")
    return {"role": SPEAKERS[speaker], "content": message.pop("value", None)} | message


def _text(content: Any, where: str) -> str | None:
    """A message's text; the texts of several parts in lines of their own."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{where} has no text content")
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text":
            raise RequestError(f"{where}: content part {number} is {kind!r:.40}; only text can be rendered")
        if not isinstance(part.get("text"), str):
            raise RequestError(f"{where}: content part {number} has no text")
        texts.append(part["text"])
    return "\n".join(texts)


def _tool_calls(calls: Any, where: str) -> list[Any]:
    """Calls of tools, their arguments as objects: chat templates write those as JSON, and text twice so."""
    calls = [] if calls is None else parsed(calls, f"{where}: tool_calls")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RequestError(f"{where}: tool_calls must be a list of objects")
    return [_call(call, f"{where}: tool call {number}") for number, call in enumerate(calls)]


def _call(call: dict[str, Any], where: str) -> dict[str, Any]:
    if isinstance(call.get("function"), dict):
        return call | {"function": _call(call["function"], where)}
    given = call.get("arguments")
    if not isinstance(given, str):
        return call
    arguments = parsed(given, f"{where}: arguments") if given.strip() else {}
    if not isinstance(arguments, dict):
        raise RequestError(f"{where}: arguments must be an object, got {given!r:.40}")
    return call | {"arguments": arguments}
