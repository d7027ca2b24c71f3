"""What one request asks for."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from orthrus_core.foreign_options import refuse_foreign

LEAST_TEMPERATURE = 1e-4  # below it, logits over temperature crowd out the noise and may overflow
MOST_TEMPERATURE = 1e6  # far above it, float32 has no such number: an excluded token's logit becomes NaN
TokenId = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100.0, le=100.0, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0, allow_inf_nan=False)]
GRAMMARS = ("json_schema", "regex", "choices")
MOST_LOGPROBS = 1000


class SamplingParams(BaseModel):
    """How a completion is chosen and where it ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(
        128, ge=0, lt=2**31, description="most tokens of the completion; 0: none, with prompt_logprobs"
    )
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
    logprobs: bool | Annotated[int, Field(ge=1, le=MOST_LOGPROBS)] = Field(
        False,
        description="give the log-probability of every emitted token; a number k: those of the k likeliest "
        "tokens at its place too",
    )
    prompt_logprobs: bool = Field(
        False,
        description="give the log-probability of every prompt token but the first; its pages are then not "
        "those of an earlier prompt",
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0.0,
        le=100.0,
        allow_inf_nan=False,
        description="logits of tokens that the prompt or the completion holds are divided by it where "
        "positive, multiplied where negative; 1: none",
    )
    presence_penalty: Penalty = Field(
        0.0, description="subtracted from the logits of tokens that the completion holds, -2 to 2; 0: none"
    )
    frequency_penalty: Penalty = Field(
        0.0,
        description="the same once for every time that the completion holds the token, -2 to 2; 0: none",
    )
    min_tokens: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="tokens before an EOS or a stop id can come; a stop string still ends the text",
    )
    logit_bias: tuple[tuple[TokenId, Bias], ...] = Field(
        (), description="added to logits, -100 to 100 by token id, before the penalties: {50: -5.0}"
    )
    bad_words: tuple[str | tuple[TokenId, ...], ...] = Field(
        (),
        description="texts, or lists of token ids, that cannot come: of each the last token, where prompt or "
        "completion end in those before it. A text is spelled with and without a space before it",
    )
    allowed_token_ids: tuple[TokenId, ...] | None = Field(
        None,
        min_length=1,
        description="no other tokens come, an EOS only if it is one of them; None: all may",
    )
    json_schema: dict[str, Any] | str | None = Field(
        None, description="the text is JSON that this schema admits; kept as text, since the order counts"
    )
    regex: str | None = Field(
        None,
        description="the whole text matches this expression, in Rust's syntax without look-around, \\b, (?m)",
    )
    choices: tuple[str, ...] = Field((), description="the text is one of these")

    @model_validator(mode="before")
    @classmethod
    def _no_options_of_other_engines(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping):
            refuse_foreign(fields.keys() - cls.model_fields.keys())
        return fields

    @field_validator("stop", "choices", "bad_words", mode="before")
    @classmethod
    def _one_string_is_a_list_of_one(cls, value: Any) -> Any:
        if not isinstance(value, str | list | tuple | set | frozenset):
            raise ValueError(f"must be a text or a list of texts, got {value!r:.60}")
        return (value,) if isinstance(value, str) else value

    @field_validator("stop", "choices", "bad_words")
    @classmethod
    def _strings_hold_text(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not all(value):
            raise ValueError(f"must hold no empty string, got {list(value)}")
        return value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _biases_are_pairs(cls, value: Any) -> Any:
        """A mapping, or its JSON text; kept as pairs in the order of the ids, since parameters are hashed."""
        value = json.loads(value) if isinstance(value, str) else value
        return tuple(value.items()) if isinstance(value, Mapping) else value

    @field_validator("logit_bias")
    @classmethod
    def _one_bias_per_token(cls, value: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        if len(dict(value)) < len(value):
            raise ValueError(f"must have one bias per token id, got {list(value)}")
        return tuple(sorted(value))

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
        forbidding = [
            name for name in ("min_tokens", "bad_words", "allowed_token_ids") if getattr(self, name)
        ]
        if asked and forbidding:
            raise ValueError(
                f"must have {asked[0]} or {forbidding[0]}, got both: together they may leave no token to "
                "choose; let the grammar say it"
            )
        return self

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        if not self.max_new_tokens and not self.prompt_logprobs:
            raise ValueError(
                "must have max_new_tokens >= 1, or prompt_logprobs to score prompts alone, got 0"
            )
        return self

    @model_validator(mode="after")
    def _least_is_at_most_most(self) -> Self:
        if self.max_new_tokens and self.min_tokens > self.max_new_tokens:
            raise ValueError(
                f"must have min_tokens <= max_new_tokens, got {self.min_tokens} and {self.max_new_tokens}"
            )
        return self

    @property
    def edits_logits(self) -> bool:
        """Whether something changes the logits before temperature and filters."""
        return self.has_penalties or bool(
            self.min_tokens or self.logit_bias or self.bad_words or self.allowed_token_ids
        )

    @property
    def has_penalties(self) -> bool:
        """Whether the tokens so far change the logits of those that they hold."""
        return self.repetition_penalty != 1.0 or bool(self.presence_penalty or self.frequency_penalty)

    @property
    def num_top_logprobs(self) -> int:
        """How many of the likeliest tokens are told of at each place."""
        return 0 if isinstance(self.logprobs, bool) else self.logprobs

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
        followed: another request will go on behind its completion, whose pages then stay in the cache as
            those of prompts do.
        follows: it goes on behind an earlier one's completion, and so begins before those that wait.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    on_tokens: Callable[[list[int]], None] | None = None
    sample: int = 0
    drafts: bool = True
    followed: bool = False
    follows: bool = False
