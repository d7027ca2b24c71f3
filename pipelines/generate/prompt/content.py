"""What a row says: a text or messages, the chat template's variables, and the beginning of the answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orthrus_core.errors import RequestError
from pipelines.generate.config.prompt import PromptConfig
from pipelines.generate.prompt.messages import Message, parsed, read_messages
from pipelines.generate.prompt.template_args import TemplateArgs
from pipelines.generate.prompt.template_process import TemplateProcess, TemplateRowError
from pipelines.read.columns import HIDDEN


@dataclass(frozen=True)
class Content:
    """What a prompt is made of.

    Attributes:
        said: messages for the chat template, or the text where there is none.
        args: the row's own variables of the chat template.
        prefill: what stands behind it all, as the answer's beginning.
        turns: what the user says behind this and further answers.
    """

    said: str | list[Message]
    args: Mapping[str, Any] = field(default_factory=dict)
    prefill: str = ""
    turns: tuple[str, ...] = ()


class ContentReader:
    """Finds in rows what `input.prompt` asks for."""

    def __init__(self, prompt: PromptConfig):
        self._prompt = prompt
        self._args = TemplateArgs(prompt)
        self._processes = {
            option: TemplateProcess(text, prompt.template_limit_s)
            for option, text in prompt.templates.items()
        }

    def read(self, row: Mapping[str, Any]) -> Content:
        """What a row says.

        Raises:
            RequestError: null, of the wrong type, or a template that fails on this row.
        """
        prompt = self._prompt
        if prompt.messages is not None:
            messages = read_messages(row[prompt.messages], prompt.messages)
        else:
            column = prompt.column
            text = self._fill("template", row) if column is None else _checked_text(row[column], column)
            if not prompt.chat:
                return Content(text)
            messages = [{"role": "user", "content": text}]
        if prompt.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": prompt.system}, *messages]
        prefill = self._fill("prefill", row) if prompt.prefill is not None else ""
        return Content(messages, self._args.of(row), prefill, self._turns(row))

    def _turns(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        column = self._prompt.turns_column
        if column is None:
            return tuple(self._fill(f"turns[{place}]", row) for place in range(len(self._prompt.turns)))
        where = f"input.prompt.turns column {column}"
        found = [] if row[column] is None else parsed(row[column], where)
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise RequestError(f"{where} must be a list of texts, got {found!r:.40}")
        return tuple(found)

    def _fill(self, option: str, row: Mapping[str, Any]) -> str:
        shown = {name: value for name, value in row.items() if not name.startswith(HIDDEN)}
        try:
            return self._processes[option].fill(shown)
        except TemplateRowError as failure:
            raise RequestError(f"input.prompt.{option} fails: {failure}") from None


def _checked_text(value: Any, name: str) -> str:
    if value is None:
        raise RequestError(f"prompt column {name} is null")
    if not isinstance(value, str):
        raise RequestError(f"prompt column {name} must be text, got {type(value).__name__}")
    return value
