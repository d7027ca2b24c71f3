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
LISTS = {"tools", "documents"}  # options of their own
NO_ROW_ARGS = FOREIGN_ARGS | LISTS | {"chat_template", "add_generation_prompt", "continue_final_message"}


class PromptConfig(Section):
    """Where a row's prompt comes from: exactly one of column, messages and template."""

    column: str | None = Field(None, description="Text column that holds the prompt.")
    messages: str | None = Field(
        None,
        description="Column with a list of {role, content} messages, or of ShareGPT's {from, value}; the "
        "list may be JSON text.",
    )
    template: str | None = Field(
        None, description='Jinja template over the row\'s columns, by name or as row["any name"].'
    )
    system: str | None = Field(None, description="System message put before prompts that have none.")
    turns: tuple[str, ...] | str = Field(
        (),
        description="What the user says behind each answer: the model answers the prompt, then the first of "
        "these, and so on, each with all before it. A list of Jinja templates over the row's columns, or a "
        "column with a list of texts, or its JSON text (null: no more turns). Every answer goes to the "
        "column completions.",
    )
    chat: bool = Field(
        True, description="Render through the tokenizer's chat template; false: the text as it is."
    )
    template_args: dict[str, Any] = Field(
        default_factory=dict,
        description="Extra variables of the chat template, such as enable_thinking: false. "
        "continue_final_message (none: true where an assistant's message is the last one) and "
        "add_generation_prompt (none: where none is continued) have transformers' meaning.",
    )
    row_args: str | dict[str, str] | None = Field(
        None,
        description="Variables of the chat template from columns, before template_args where not null: "
        "{enable_thinking: COLUMN}, or one column with an object of variables or its JSON text.",
    )
    tools: tuple[dict[str, Any], ...] | str | None = Field(
        None,
        description="Tools that the chat template shows to the model: a list of JSON schemas as in OpenAI's "
        "API, or a column with such a list, or its JSON text. None of them is ever called.",
    )
    documents: tuple[dict[str, Any], ...] | str | None = Field(
        None, description="Documents for chat templates that show some (title, text): as tools."
    )
    prefill: str | None = Field(
        None,
        description="Beginning of the answer, with which the completion goes on: a Jinja template over "
        "columns. It is part of the prompt; output.prefill writes it before the completion too.",
    )
    add_special_tokens: bool = Field(
        True,
        description="With chat: false: put the tokenizer's special tokens (BOS) around the text; false for "
        "prompts that are rendered already and hold them.",
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

    @property
    def templates(self) -> dict[str, str]:
        """Templates over a row's columns, by option."""
        found = {"template": self.template, "prefill": self.prefill}
        turns = self.turns if self.turns_column is None else ()
        found |= {f"turns[{place}]": text for place, text in enumerate(turns)}
        return {option: text for option, text in found.items() if text is not None}

    @property
    def structured(self) -> list[str]:
        """Columns whose values are structures for the chat template."""
        named = (self.messages, self.row_args, self.tools, self.documents)
        return [column for column in named if isinstance(column, str)]

    @property
    def row_columns(self) -> list[str]:
        """Columns of variables of the chat template, and of turns."""
        named = self.row_args.values() if isinstance(self.row_args, dict) else ()
        turns = () if self.turns_column is None else (self.turns_column,)
        return [*named, *(column for column in self.structured if column != self.messages), *turns]

    @property
    def turns_column(self) -> str | None:
        """The column with a row's own turns; None: the config says them."""
        return self.turns if isinstance(self.turns, str) else None

    @property
    def variables(self) -> list[tuple[str, str]]:
        """Variables that the chat template must have: option and name."""
        own = {"chat_template", "add_generation_prompt", "continue_final_message"}
        found = [("template_args", name) for name in self.template_args if name not in own]
        found += [("row_args", name) for name in self.row_args] if isinstance(self.row_args, dict) else []
        found += [(name, name) for name in sorted(LISTS) if getattr(self, name)]
        return [(f"input.prompt.{option}", name) for option, name in found]

    @field_validator("template_args")
    @classmethod
    def _are_for_the_template(cls, value: dict[str, Any]) -> dict[str, Any]:
        if foreign := sorted(FOREIGN_ARGS & value.keys()):
            raise ValueError(f"must hold variables of the chat template, and {', '.join(foreign)} is none")
        if lists := sorted(LISTS & value.keys()):
            raise ValueError(f"must be without {lists[0]}; set input.prompt.{lists[0]}")
        opens, continues = (value.get(name) for name in ("add_generation_prompt", "continue_final_message"))
        if not isinstance(opens, bool | None) or not isinstance(continues, bool | str | None):
            raise ValueError("must have add_generation_prompt and continue_final_message true or false")
        if opens and continues:
            raise ValueError("must have at most one of add_generation_prompt and continue_final_message true")
        return value

    @field_validator("row_args")
    @classmethod
    def _are_a_rows_own(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if isinstance(value, dict) and (foreign := sorted(NO_ROW_ARGS & value.keys())):
            own = [name for name in foreign if name in LISTS]
            more = f"; set input.prompt.{own[0]}" if own else ""
            raise ValueError(
                f"must hold variables of the chat template, and {', '.join(foreign)} is none{more}"
            )
        return value

    @model_validator(mode="after")
    def _chat_options_have_a_chat(self) -> Self:
        of_chat = ("messages", "system", "turns", "row_args", "tools", "documents", "prefill")
        given = [name for name in of_chat if getattr(self, name) not in (None, ())]
        if not self.chat and given:
            raise ValueError(f"must have chat: true with {' and '.join(given)}")
        if self.chat and not self.add_special_tokens:
            raise ValueError(
                "must have chat: false with add_special_tokens: false; chat templates write theirs"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("column", "messages", "template") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"must have exactly one of column, messages, template, got {found}")
        return self
