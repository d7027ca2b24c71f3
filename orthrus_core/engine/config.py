"""What the engine is told once, at its start."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MOST_LOOKED_UP = 16  # drafts of a sequence and step


class EngineConfig(BaseModel):
    """Options of one engine. None but `consensus` changes the text, only the speed and the memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["consensus", "autoregressive"] = Field(
        "consensus",
        description="consensus: draft and verify, by lookup alone where the model has no diffusion head; "
        "autoregressive: one token per sequence and step",
    )
    token_budget: int | None = Field(
        None,
        ge=4,
        description="T, most token rows of a forward pass; None: on a CPU room for every sequence's block, "
        "up to 512 rows, elsewhere 4096, most of them for prompts",
    )
    budgets: tuple[int, ...] | None = Field(
        None,
        description="ladder of budgets up to token_budget, of which every forward takes one; None: all "
        "rungs whose rows agree bit for bit at start-up. A resumed run takes those of its manifest",
    )
    block_size: int | None = Field(
        None,
        ge=1,
        description="K, most tokens drafted per sequence and step; None: the head's own, and 16 by lookup",
    )
    lookup_tokens: int = Field(
        1_000_000,
        ge=0,
        lt=2**31,
        description="most tokens of prompts and completions that drafts are looked up in, the oldest out; "
        "80 to 144 bytes of host memory each. 0: no lookup",
    )
    block_policy: Literal["adaptive", "fixed"] = Field(
        "adaptive",
        description="adaptive: draft where it pays, by estimated acceptance and measured costs; "
        "fixed: block_size drafts for everybody, fewer only where the token budget ends; lookup only where "
        "the model has no head",
    )
    max_sequences: int = Field(0, ge=0, description="sequences in flight; auto (0): what memory is good for")
    max_context: int = Field(
        0, ge=0, description="most tokens of prompt and completion; auto (0): the model's"
    )
    memory: float = Field(0.9, gt=0, le=1, description="share of the device's memory that may be filled")
    consensus: Literal["coupled", "rejection"] = Field(
        "coupled",
        description="accept rule; coupled: the longest prefix on which both views agree, the text of AR; "
        "rejection: min(1, p/q) where a request samples: more drafts stand, AR's distribution only",
    )
    page_size: Literal[1, 2, 4, 8, 16, 32, 64] = Field(16, description="cells of a cache page")
    num_pages: int | None = Field(
        None,
        ge=2,
        description="pages of the cache, one of them scratch; None: all that sequences need, or memory holds",
    )
    attention: Literal["auto", "native", "triton", "plain"] = Field(
        "auto",
        description="attention: native (CPU), triton (CUDA), plain (torch, slow); auto: the device's kernel",
    )
    linear: Literal["auto", "native", "triton", "plain"] = Field(
        "auto",
        description="linear layers: native (CPU), triton (CUDA), plain (torch); auto: the fastest exact one",
    )
    self_check: bool = Field(True, description="compare bits of permuted rows at start-up; else one budget")
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="torch.compile of both views; auto: on CUDA, and on CPUs when expected_tokens make up "
        "for the time it takes",
    )
    expected_tokens: int = Field(0, ge=0, description="tokens it will about emit, for compile: auto")

    @field_validator("compile", mode="before")
    @classmethod
    def _yaml_reads_on_and_off_as_booleans(cls, value: object) -> object:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("max_sequences", "max_context", mode="before")
    @classmethod
    def _auto_is_zero(cls, value: object) -> object:
        return 0 if value == "auto" else value

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and min(value, default=0) < 1:
            raise ValueError(f"must be one or more budgets >= 1, got {value}")
        return None if value is None else tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _fits(self) -> "EngineConfig":
        T = self.token_budget or (self.budgets or (None,))[-1]
        if self.budgets is not None and self.budgets[-1] != T:
            raise ValueError(f"the largest of budgets must be token_budget ({T}), got {self.budgets[-1]}")
        if T is not None and self.max_sequences > T:
            raise ValueError(
                f"token_budget, the largest of budgets, must be >= max_sequences ({self.max_sequences}), "
                f"got {T}: every running sequence needs a token row"
            )
        if self.num_pages is not None and self.num_pages - 1 < self.pages_per_sequence:
            raise ValueError(
                f"num_pages must be >= {self.pages_per_sequence + 1} to hold one sequence of "
                f"max_context {self.max_context}, got {self.num_pages}"
            )
        return self

    @property
    def needs_head(self) -> bool:
        """Whether drafts can come from a diffusion head only."""
        return self.mode == "consensus" and not self.lookup_tokens

    def uses_head(self, shape: Any) -> bool:
        """Whether the diffusion view of a model drafts; `shape` is the model's config."""
        return self.mode == "consensus" and shape.has_head

    def most_looked_up(self, shape: Any) -> int:
        """Return how many drafts may be looked up for a sequence and step, 0 for no lookup."""
        is_taken = self.block_policy == "adaptive" or not shape.has_head
        if self.mode == "autoregressive" or not self.lookup_tokens or not is_taken:
            return 0
        return min(self.block_size or MOST_LOOKED_UP, MOST_LOOKED_UP)

    def most_drafts(self, shape: Any) -> int:
        """Return how many drafts a step may verify for a sequence, wherever they come from."""
        block = (self.block_size or shape.block_size) if self.uses_head(shape) else 0
        return max(block, self.most_looked_up(shape))

    @property
    def pages_per_sequence(self) -> int:
        """Pages that a sequence of `max_context` tokens fills."""
        return -(-self.max_context // self.page_size)

    @property
    def total_pages(self) -> int:
        """Pages to allocate, the scratch page included."""
        return self.num_pages or self.max_sequences * self.pages_per_sequence + 1
