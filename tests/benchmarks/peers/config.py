"""Options of the comparison with other engines: those of an evaluation, and `peers`."""

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipelines.config.section import Section
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.speed_config import SpeedLoad


class VllmVariant(Section):
    """One way to run vLLM."""

    compiled: bool = Field(True, description="With torch.compile, else eager.")
    threads: int | None = Field(None, ge=1, description="OpenMP threads; none: as many as the job's.")
    intel_openmp: bool = Field(
        False, description="Preload libiomp5 of its environment, as vLLM's documentation advises."
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Environment variables beside those that it gets anyway."
    )


class VllmConfig(Section):
    """vLLM's CPU build in an environment of its own."""

    python: Path = Field(
        Path("build/peers/vllm/bin/python"),
        description="Interpreter of its environment; `make bench-peers` makes it.",
    )
    variants: dict[str, VllmVariant] = Field(
        {"compiled": VllmVariant(), "eager": VllmVariant(compiled=False)},
        min_length=1,
        description="Ways to run it by a name, each in a process of its own.",
    )
    max_context: int = Field(512, ge=2, description="Its max_model_len.")


class AuthorsConfig(Section):
    """The authors' code, where a user has it; it takes one sequence at a time."""

    path: Path | None = Field(
        None, description="Checkout of chiennv2000/orthrus, or its src/model.py; none: not compared."
    )
    python: Path | None = Field(
        None, description="Interpreter of an environment that runs it; none: the job's own."
    )


class PeersConfig(Section):
    """This engine in both modes against other engines, greedy, taking turns."""

    prompt_set: str = Field(description="Set whose first rows are completed.")
    vllm: VllmConfig | None = Field(VllmConfig(), description="vLLM; none: not compared.")
    authors: AuthorsConfig = Field(AuthorsConfig(), description="The authors' code.")
    loads: tuple[SpeedLoad, ...] = Field(min_length=1, description="Loads.")
    rounds: int = Field(3, ge=1, description="Times that every system completes the prompts.")
    warm_up_rows: int = Field(2, ge=1, description="Prompts that each system completes first, not timed.")
    pause_s: float = Field(
        0.3, ge=0, description="Seconds before each turn, so that the threads of the last one are at rest."
    )
    directory: Path = Field(
        Path("build/peers"), description="For the backbone as vLLM reads it, vLLM's caches, and logs."
    )
    timeout_s: float = Field(
        600.0, gt=0, description="Longest wait for a peer's start and for each of its answers."
    )

    @model_validator(mode="after")
    def _something_to_compare(self) -> Self:
        if self.vllm is None and self.authors.path is None:
            raise ValueError("must have vllm or authors.path, got neither")
        return self


class PeersBenchmark(EvaluateConfig):
    """An evaluation whose model, prompts, engine, sampling and threads the peers share."""

    peers: PeersConfig = Field(description="Other engines beside this one.")

    @field_validator("peers")
    @classmethod
    def _fits(cls, value: PeersConfig, info: ValidationInfo) -> PeersConfig:
        """What holds for a speed section: its prompts are there, and others can sample as it does."""
        return cls._rules_of_others(cls._known_sets(value, info), info)
