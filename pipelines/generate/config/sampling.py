"""Options of the generate job that say how completions are chosen and where they end."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from orthrus_core.request import SamplingParams
from pipelines.config.section import Section


class SamplingColumns(Section):
    """Columns whose value replaces an option for its row, where it is not null."""

    max_new_tokens: str | None = Field(None, description="Column with the row's own max_new_tokens.")
    temperature: str | None = Field(None, description="Column with the row's own temperature.")
    top_k: str | None = Field(None, description="Column with the row's own top_k.")
    top_p: str | None = Field(None, description="Column with the row's own top_p.")
    min_p: str | None = Field(None, description="Column with the row's own min_p.")
    seed: str | None = Field(None, description="Column with the row's own seed.")
    stop: str | None = Field(
        None, description="Column with the row's own stop strings: text, or a list of texts (empty: none)."
    )
    n: str | None = Field(None, description="Column with the row's own number of completions.")
    json_schema: str | None = Field(
        None, description="Column with the row's own json_schema, as text; the config's grammar is then off."
    )
    regex: str | None = Field(None, description="Column with the row's own regex, likewise.")
    choices: str | None = Field(None, description="Column with the row's own choices, likewise.")
    repetition_penalty: str | None = Field(None, description="Column with the row's own repetition_penalty.")
    presence_penalty: str | None = Field(None, description="Column with the row's own presence_penalty.")
    frequency_penalty: str | None = Field(None, description="Column with the row's own frequency_penalty.")
    min_tokens: str | None = Field(None, description="Column with the row's own min_tokens.")
    logit_bias: str | None = Field(
        None, description='Column with the row\'s own logit_bias: JSON text ({"50": -5.0}), or a map.'
    )
    bad_words: str | None = Field(
        None, description="Column with the row's own bad_words: a text, or a list of texts."
    )
    allowed_token_ids: str | None = Field(
        None, description="Column with the row's own allowed_token_ids: a list."
    )

    @property
    def given(self) -> dict[str, str]:
        """Option to column, of those that are set."""
        return {name: column for name, column in self.model_dump().items() if column is not None}


class SamplingConfig(SamplingParams):
    """How each completion is chosen and where it ends; per-row values from columns."""

    max_new_tokens: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Most tokens of the completion; auto (0): half of decode.max_context, at most 2048, and "
        "none with prompt_logprobs.",
    )
    columns: SamplingColumns = Field(
        default_factory=SamplingColumns, description="Per-row values, by option name."
    )
    n: int = Field(
        1,
        ge=1,
        le=1024,
        description="Completions of each prompt, numbered by the column sample; they share its cache pages. "
        "At temperature 0 they are all the same.",
    )

    generation_config: Literal["ignore", "use"] = Field(
        "ignore",
        description="use: what the checkpoint's generation_config.json says goes before the defaults of this "
        "section, and what is set here before that. Its EOS ids are used either way.",
    )

    @field_validator("max_new_tokens", mode="before")
    @classmethod
    def _auto_is_zero(cls, value: Any) -> Any:
        return 0 if value == "auto" else value

    @field_validator("json_schema", mode="before")
    @classmethod
    def _read_schema_file(cls, value: Any) -> Any:
        """A path that ends in .json stands for the file's text: the run's identity holds the schema."""
        if not isinstance(value, str) or not value.endswith(".json"):
            return value
        try:
            return Path(value).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot be read from {value}: {error}") from None

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        """In place of the engine's rule: 0 stands for auto."""
        return self

    @property
    def params(self) -> SamplingParams:
        """What the engine takes."""
        return SamplingParams(**self.model_dump(exclude={"columns", "n", "generation_config"}))
