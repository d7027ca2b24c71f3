"""What one request asks for."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LEAST_TEMPERATURE = 1e-4  # below it, logits over temperature crowd out the noise and may overflow
MOST_TEMPERATURE = 1e6  # far above it, float32 has no such number: an excluded token's logit becomes NaN
TokenId = Annotated[int, Field(ge=0)]
GRAMMARS = ("json_schema", "regex", "choices")


class SamplingParams(BaseModel):
    """How a completion is chosen and where it ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(128, ge=1, lt=2**31, description="most tokens of the completion")
    temperature: float = Field(
        0.0,
        ge=0.0,
        le=MOST_TEMPERATURE,
        allow_inf_nan=False,
        description="0: the likeliest token; else logits are divided by it",
    )
    top_k: int = Field(0, ge=0, lt=2**63, description="sample among the k likeliest tokens; 0: all")
    top_p: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="sample among the likeliest tokens of this total probability; 1: all",
    )
    min_p: float = Field(
        0.0, ge=0.0, le=1.0, description="least probability relative to the likeliest token's; 0: all"
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="of the noise; the same seed and prompt give the same text"
    )
    eos_token_id: TokenId | tuple[TokenId, ...] | None = Field(
        None, description="ids that end a completion; None: those of the model"
    )
    stop_token_ids: tuple[TokenId, ...] = Field((), description="further ids that end a completion")
    stop: tuple[str, ...] = Field(
        (), description="texts that end a completion, across token borders too; the engine needs a tokenizer"
    )
    include_stop_str: bool = Field(
        False, description="keep the stop string at the end of the text; token ids always hold it"
    )
    ignore_eos: bool = Field(False, description="go on past an EOS; stop_token_ids and stop still end")
    logprobs: bool = Field(False, description="give the log-probability of every emitted token")
    json_schema: dict[str, Any] | str | None = Field(
        None, description="the text is JSON that this schema admits; kept as text, since the order counts"
    )
    regex: str | None = Field(
        None,
        description="the whole text matches this expression, in Rust's syntax without look-around, \\b, (?m)",
    )
    choices: tuple[str, ...] = Field((), description="the text is one of these")

    @field_validator("stop", "choices", mode="before")
    @classmethod
    def _one_string_is_a_list_of_one(cls, value: Any) -> Any:
        if not isinstance(value, str | list | tuple | set | frozenset):
            raise ValueError(f"must be a text or a list of texts, got {value!r:.60}")
        return (value,) if isinstance(value, str) else value

    @field_validator("stop", "choices")
    @classmethod
    def _strings_hold_text(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError(f"must hold no empty string, got {list(value)}")
        return value

    @field_validator("temperature")
    @classmethod
    def _divides_in_float32(cls, value: float) -> float:
        if 0.0 < value < LEAST_TEMPERATURE:
            raise ValueError(f"must be 0 (greedy) or >= {LEAST_TEMPERATURE}, got {value}")
        return value

    @field_validator("json_schema")
    @classmethod
    def _is_a_json_object(cls, value: dict[str, Any] | str | None) -> str | None:
        if value is None:
            return None
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        try:
            schema = json.loads(text)
        except ValueError as error:
            raise ValueError(f"must be a JSON schema, got {text[:60]!r}, which is no JSON: {error}") from None
        if not isinstance(schema, dict):
            raise ValueError(f"must be a JSON object, got {text[:60]!r}")
        return text

    @model_validator(mode="after")
    def _one_grammar(self) -> Self:
        asked = [name for name in GRAMMARS if getattr(self, name) not in (None, ())]
        if len(asked) > 1:
            raise ValueError(f"must have at most one of {', '.join(GRAMMARS)}, got {' and '.join(asked)}")
        if asked and self.ignore_eos:
            raise ValueError(f"must have ignore_eos: false with {asked[0]}, whose text ends by an EOS")
        return self

    @property
    def grammar(self) -> tuple[str, Any] | None:
        """The name and the value of the option that the text has to obey; None: any text will do."""
        if self.json_schema is not None:
            return "json_schema", self.json_schema
        if self.regex is not None:
            return "regex", self.regex
        return ("choices", self.choices) if self.choices else None


@dataclass(frozen=True)
class Request:
    """One prompt for the engine.

    Attributes:
        prompt_ids: token ids, at least one.
        params: how to decode it.
        sample: number of the completion for this prompt; another number draws another text.
        drafts: False: decoded one token a step, without drafts, and begun only while no other request waits
            (the text is the same).
        on_tokens: called with the tokens that a step emitted, in order, on the thread that steps the engine.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    on_tokens: Callable[[list[int]], None] | None = None
    sample: int = 0
    drafts: bool = True
