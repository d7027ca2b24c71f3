"""The tokenizer's chat template: messages to text, as transformers renders them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orthrus_core.errors import ConfigError, RequestError
from pipelines.generate.config.prompt import PromptConfig
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
        source: the template.
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
            ConfigError: the tokenizer has none, or several and no default.
        """
        arguments = dict(prompt.template_args)
        self._turn = {name: arguments.pop(name, None) for name in TURN}
        try:
            self.source = tokenizer.get_chat_template(
                arguments.pop("chat_template", None), arguments.get("tools")
            )
        except ValueError as error:
            if tokenizer.chat_template is not None:
                raise ConfigError(f"input.prompt.chat is true: {error}") from None
            raise ConfigError(
                "input.prompt.chat is true, but the tokenizer has no chat template; set it to false"
            ) from None
        self._arguments = {**tokenizer.special_tokens_map, **arguments, "chat_template": self.source}
        self._process = process or TemplateProcess(None, prompt.template_limit_s)

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The text of a conversation, with the next turn opened or the last one left open.

        Raises:
            RequestError: the template raises, takes too long or needs too much memory.
        """
        try:
            return self._process.fill(
                {**self._arguments, **self._open_end(messages[-1]), "conversations": [list(messages)]}
            )
        except TemplateRowError as failure:
            if "continue_final_message is set" in str(failure):
                raise RequestError(REWRITTEN) from None
            raise RequestError(f"chat template fails: {failure}") from None

    def _open_end(self, last: dict[str, Any]) -> dict[str, Any]:
        """How the text ends: an assistant's last words go on, but not behind the calls of tools in them."""
        opens, continues = (self._turn[name] for name in TURN)
        if continues is None:
            continues = last["role"] == "assistant" and not last.get("tool_calls") and not opens
        return {
            "add_generation_prompt": not continues if opens is None else opens,
            "continue_final_message": continues,
        }
