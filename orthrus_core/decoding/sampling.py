"""What one request asks for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, field_validator


class SamplingParams(BaseModel):
    """How a completion is chosen and where it ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(128, ge=1, description="most tokens of the completion")
    temperature: float = Field(0.0, ge=0.0, description="0: greedy, the only choice so far")
    seed: int = Field(0, description="recorded with the row; greedy decoding does not use it")
    eos_token_id: int | tuple[int, ...] | None = Field(
        None, description="ids that end a completion; None: those of the model"
    )
    stop_token_ids: tuple[int, ...] = Field((), description="further ids that end a completion")
    ignore_eos: bool = Field(False, description="go on to max_new_tokens whatever comes")

    @field_validator("temperature")
    @classmethod
    def _greedy(cls, value: float) -> float:
        if value != 0.0:
            raise ValueError(f"temperature must be 0.0 (greedy decoding), got {value}")
        return value


@dataclass(frozen=True)
class Request:
    """One prompt for the engine.

    Attributes:
        prompt_ids: token ids, at least one.
        params: how to decode it.
        on_tokens: called with the tokens that a step emitted, in order, on the thread that steps the engine.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    on_tokens: Callable[[list[int]], None] | None = None
