"""Options of the generate job that say what a row's prompt is made of."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.config.section import Section

# Arguments of transformers' apply_chat_template that are no variables of a template.
FOREIGN_ARGS = {
    "conversation",
    "conversations",
    "messages",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
    "sanitize_control_tokens",
}


class PromptConfig(Section):
    """Where a row's prompt comes from: exactly one of column, messages and template."""

    column: str | None = Field(None, description="Text column that holds the prompt.")
    messages: str | None = Field(None, description="Column with a list of {role, content} messages.")
    template: str | None = Field(
        None, description='Jinja template over the row\'s columns, by name or as row["any name"].'
    )
    system: str | None = Field(None, description="System message put before prompts that have none.")
    chat: bool = Field(
        True, description="Render through the tokenizer's chat template; false: the text as it is."
    )
    template_args: dict[str, Any] = Field(
        default_factory=dict,
        description="Extra variables of the chat template, such as enable_thinking: false. "
        "continue_final_message (none: true where an assistant's message is the last one) and "
        "add_generation_prompt (none: where none is continued) have transformers' meaning.",
    )
    special_tokens: Literal["parse", "text"] | None = Field(
        None,
        description="What becomes of the tokenizer's control tokens (<|im_end|>) in what rows say. text: "
        "characters like any others. parse: the tokens. none: text with chat, parse without.",
    )
    template_limit_s: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="CPU seconds that filling the template, and the chat template, may take for one row.",
    )
    overlong: Literal["error", "truncate_left", "truncate_right"] = Field(
        "error",
        description="What becomes of a prompt that leaves too little room in decode.max_context: an error "
        "row, or its text is cut at the beginning (truncate_left) or at the end. Only what users say is cut: "
        "the chat template's own text, system messages and answers stay whole.",
    )
    room: int | None = Field(
        None,
        ge=1,
        description="Tokens of decode.max_context that a prompt must leave free; none: 1 with overlong: "
        "error, else the row's max_new_tokens.",
    )

    @property
    def keeps_text(self) -> bool:
        """Whether control tokens in what rows say stay text."""
        return self.special_tokens == "text" or (self.special_tokens is None and self.chat)

    @field_validator("template_args")
    @classmethod
    def _are_for_the_template(cls, value: dict[str, Any]) -> dict[str, Any]:
        if foreign := sorted(FOREIGN_ARGS & value.keys()):
            raise ValueError(f"must hold variables of the chat template, and {', '.join(foreign)} is none")
        opens, continues = (value.get(name) for name in ("add_generation_prompt", "continue_final_message"))
        if not isinstance(opens, bool | None) or not isinstance(continues, bool | str | None):
            raise ValueError("must have add_generation_prompt and continue_final_message true or false")
        if opens and continues:
            raise ValueError("must have at most one of add_generation_prompt and continue_final_message true")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("column", "messages", "template") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"must have exactly one of column, messages, template, got {found}")
        if not self.chat and (self.messages is not None or self.system is not None):
            raise ValueError("must have chat: true with messages or system")
        return self
