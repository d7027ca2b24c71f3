"""Options of what the evaluate job times and weighs."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.models.cost import ModelShape
from pipelines.config.section import Section

PeerName = Literal["transformers", "prompt_lookup", "generate_batch", "vllm", "authors"]
ONE_SEQUENCE = ("prompt_lookup", "authors")


class LoadConfig(Section):
    """One load under which the engine is timed, in both modes."""

    batch: int = Field(ge=1, description="Sequences in flight: the engine's max_sequences, or a batch.")
    rows: int = Field(ge=1, description="Prompts, the first of the set that leave room for max_new_tokens.")
    token_budget: int | None = Field(None, ge=4, description="T of consensus; none: the engine's own choice.")
    ar_token_budget: int | None = Field(
        None,
        ge=4,
        description="T of AR; none: that of consensus.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("token_budget", "ar_token_budget"):
            value = getattr(self, name)
            if value is not None and value < self.batch:
                raise ValueError(f"{name} must be >= batch ({self.batch}), got {value}")
        return self


class SpeedLoad(LoadConfig):
    """One load, and what else is timed under it."""

    systems: tuple[PeerName, ...] = Field(
        ("transformers",),
        description="Beside the engine. transformers: its generate; prompt_lookup: its assisted generation, "
        "one sequence; generate_batch: its continuous batching; vllm: vLLM, where it is installed; authors: "
        "the authors' code, one sequence, where `authors.path` says where it is.",
    )
    context: int | None = Field(
        None,
        ge=1,
        description="Tokens of every prompt: others of the set are put before it; none: as they are.",
    )

    @model_validator(mode="after")
    def _one_sequence(self) -> Self:
        alone = [name for name in self.systems if name in ONE_SEQUENCE]
        if alone and self.batch > 1:
            raise ValueError(f"systems: {alone[0]} takes one sequence, batch is {self.batch}")
        return self


class SpeedConfig(Section):
    """Consensus, AR and transformers against the clock, in model.dtype."""

    loads: tuple[SpeedLoad, ...] = Field(
        (SpeedLoad(batch=1, rows=24), SpeedLoad(batch=8, rows=48)), min_length=1, description="Loads."
    )
    rounds: int = Field(3, ge=1, description="Times that every system completes the prompts.")
    warm_up_rows: int = Field(2, ge=1, description="Prompts that each system completes first, not timed.")
    pause_s: float = Field(
        0.3, ge=0, description="Seconds before each turn, so that the threads of the last one are at rest."
    )
    prompt_sets: tuple[str, ...] | None = Field(None, description="Sets to time; none: all.")

    @property
    def systems(self) -> set[str]:
        """What any load names."""
        return {name for load in self.loads for name in load.systems}


class VllmConfig(Section):
    """vLLM in an environment of its own."""

    python: Path = Field(
        Path("build/peers/vllm/bin/python"),
        description="Interpreter of its environment; `make bench-peers` makes it.",
    )
    compiled: bool = Field(True, description="With torch.compile, else eager.")
    directory: Path = Field(
        Path("build/peers"), description="For the backbone as vLLM reads it, its caches, and logs."
    )
    timeout_s: float = Field(
        3600.0, gt=0, description="Longest wait for its start and for each of its answers."
    )


class AuthorsConfig(Section):
    """The authors' code, where a user has it."""

    path: Path | None = Field(
        None, description="Checkout of chiennv2000/orthrus, or its src/model.py; none: it is left out."
    )
    python: Path | None = Field(
        None, description="Interpreter of an environment that runs it; none: the job's own."
    )


class AcceptanceConfig(Section):
    """Acceptance of drafts, by exactly one of the three."""

    tokens_per_step: float | None = Field(
        None, ge=1, description="Acceptance length; the curve behind it is taken as geometric."
    )
    conditional: tuple[float, ...] | None = Field(
        None, description="Acceptance of each draft when all before it were accepted."
    )
    accepted_by_position: tuple[int, ...] | None = Field(
        None, description="An engine report's counts; needs drafted_by_position too."
    )
    drafted_by_position: tuple[int, ...] | None = Field(None, description="See accepted_by_position.")
    measured_drafts: int | None = Field(
        None, ge=1, description="Drafts per step when tokens_per_step was measured; none: block_size."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [self.tokens_per_step, self.conditional, self.accepted_by_position]
        if sum(value is not None for value in given) != 1:
            raise ValueError("must have exactly one of tokens_per_step, conditional, accepted_by_position")
        if (self.accepted_by_position is None) != (self.drafted_by_position is None):
            raise ValueError("must have accepted_by_position and drafted_by_position together")
        return self

    def curve(self, block_size: int) -> AcceptanceCurve:
        """Return the curve of up to `block_size` drafts.

        Raises:
            ValueError: the numbers describe none.
        """
        if self.tokens_per_step is not None:
            return AcceptanceCurve.from_tokens_per_step(
                self.tokens_per_step, block_size, measured_drafts=self.measured_drafts
            )
        if self.conditional is not None:
            return AcceptanceCurve(self.conditional[:block_size])
        assert self.accepted_by_position is not None
        assert self.drafted_by_position is not None
        whole = AcceptanceCurve.from_counts(self.accepted_by_position, self.drafted_by_position)
        return AcceptanceCurve(whole.conditional[:block_size])


class ReplayConfig(Section):
    """Consensus against AR on random weights, drafts replaced so that a set share stands."""

    shape: ModelShape = Field(description="Sizes of the backbone; dtype_bytes plays no part.")
    block_size: int = Field(8, ge=2, description="K of the head.")
    acceptance: AcceptanceConfig = Field(description="How many drafts stand.")
    prompt_tokens: int = Field(64, ge=1, description="Length of every prompt.")
    new_tokens: int = Field(48, ge=2, description="Length of every completion.")
    loads: tuple[LoadConfig, ...] = Field(min_length=1, description="Loads.")
    rounds: int = Field(3, ge=1, description="Times that each mode completes the prompts.")

    @model_validator(mode="after")
    def _curve_exists(self) -> Self:
        try:
            self.acceptance.curve(self.block_size)
        except ValueError as error:
            raise ValueError(f"acceptance: {error}") from None
        return self


class MemoryConfig(Section):
    """Peak memory of both modes, each in a process of its own."""

    prompt_set: str = Field(description="Set whose first rows are completed.")
    load: LoadConfig = Field(LoadConfig(batch=8, rows=16), description="Load.")
