"""The tokenizer's chat template: messages to text, as transformers renders them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orthrus_core.errors import ConfigError, RequestError
from pipelines.generate.config.prompt import PromptConfig
from pipelines.generate.prompt.messages import Message
from pipelines.generate.prompt.template_process import TemplateProcess, TemplateRowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TURN = ("add_generation_prompt", "continue_final_message")

REWRITTEN = (
    "chat template does not write the last message as it is, so that the completion cannot go on with it; to "
    "open another turn behind it, set input.prompt.template_args: {continue_final_message: false}"
)


class ChatTemplate:
    """Renders messages in a process with limits: the template is the checkpoint's, and so may be anybody's.

    Attributes:
        source: the template; where there is another one for tools, both.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        prompt: PromptConfig,
        process: TemplateProcess | None = None,
    ):
        """Find the template.

        Args:
            process: to share one; None: one of its own, which starts with the first row.
        Raises:
            ConfigError: the tokenizer has none, or several and no default, or it has no such variables.
        """
        arguments = dict(prompt.template_args)
        self._turn = {name: arguments.pop(name, None) for name in TURN}
        name = arguments.pop("chat_template", None)
        self._plain = _source(tokenizer, name, None)
        self._with_tools = _source(tokenizer, name, [])
        self.source = "".join(dict.fromkeys((self._plain, self._with_tools)))
        for option, variable in prompt.variables:
            if variable not in self.source:
                raise ConfigError(f"{option}: the chat template has no variable {variable}")
        self._arguments = {**tokenizer.special_tokens_map, **arguments}
        self._process = process or TemplateProcess(None, prompt.template_limit_s)

    def render(self, messages: Sequence[Message], args: Mapping[str, Any]) -> str:
        """The text of a conversation, with the next turn opened or the last one left open.

        Args:
            args: variables of the template, before the config's.
        Raises:
            RequestError: the template raises, takes too long or needs too much memory.
        """
        source = self._with_tools if args.get("tools") else self._plain
        if "tool_calls" not in source and any("tool_calls" in message for message in messages):
            raise RequestError("chat template leaves tool_calls out, and a message has some")
        continues = self.continues(messages)
        opens = self._turn["add_generation_prompt"]
        turn = {
            "add_generation_prompt": not continues if opens is None else opens,
            "continue_final_message": continues and (self._turn["continue_final_message"] or True),
        }
        request = {**self._arguments, **args, **turn, "chat_template": source}
        try:
            return self._process.fill({**request, "conversations": [list(messages)]})
        except TemplateRowError as failure:
            if "continue_final_message is set" in str(failure):
                raise RequestError(REWRITTEN) from None
            raise RequestError(f"chat template fails: {failure}") from None

    def continues(self, messages: Sequence[Message]) -> bool:
        """Whether the completion goes on with the last message: an assistant's without calls of tools."""
        opens, continues = (self._turn[name] for name in TURN)
        if continues is not None:
            return bool(continues)
        last = messages[-1]
        return last["role"] == "assistant" and not last.get("tool_calls") and not opens


def _source(tokenizer: "PreTrainedTokenizerBase", name: str | None, tools: list[Any] | None) -> str:
    try:
        return str(tokenizer.get_chat_template(name, tools))
    except ValueError as error:
        if tokenizer.chat_template is not None:
            raise ConfigError(f"input.prompt.chat is true: {error}") from None
        raise ConfigError(
            "input.prompt.chat is true, but the tokenizer has no chat template; set it to false"
        ) from None
