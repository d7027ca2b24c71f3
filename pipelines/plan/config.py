"""Options of the plan job."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.cost import Hardware, ModelShape
from orthrus_core.evaluation.curve import AcceptanceCurve
from pipelines.config import ModelConfig, Section

Count = Annotated[int, Field(ge=1)]


class Presets(Section):
    """Devices and model shapes by name."""

    hardware: dict[str, Hardware] = Field(description="Devices.")
    models: dict[str, ModelShape] = Field(description="Model shapes.")

    def device(self, name: str) -> Hardware:
        """Return a device. Raises ConfigError for an unknown name."""
        if name not in self.hardware:
            raise ConfigError(f"hardware must be one of {', '.join(self.hardware)}, got {name}")
        return self.hardware[name]

    def shape(self, name: str) -> ModelShape:
        """Return a model shape. Raises ConfigError for an unknown name."""
        if name not in self.models:
            raise ConfigError(f"model must be one of {', '.join(self.models)}, got {name}")
        return self.models[name]


class TrafficConfig(Section):
    """How drafts fare on one kind of text: exactly one of the three."""

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


class PlanConfig(Section):
    """The whole plan job."""

    presets: Path = Field(description="Yaml file with devices and model shapes by name.")
    hardware: str = Field(description="A device of the presets.")
    model: str = Field(description="A model shape of the presets.")
    block_size: Count = Field(32, description="K, most drafts of the head.")
    traffic: dict[str, TrafficConfig] = Field(
        min_length=1, description="Kinds of text by a name; the sequences of a batch take them in turn."
    )
    block_sizes: tuple[Count, ...] = Field((8, 16, 32), description="Fixed K to compare with.")
    batch_sizes: tuple[Count, ...] = Field(
        (1, 4, 8, 16, 32, 64, 128, 256), min_length=1, description="Sequences side by side."
    )
    contexts: tuple[Count, ...] = Field(
        (512, 4096, 16384), min_length=1, description="Positions in the cache of each sequence."
    )
    measure: bool = Field(
        False, description="Also compare the formula with real forwards of measured_model on this machine."
    )
    measured_model: ModelConfig = Field(
        ModelConfig(path="pipelines/demo/model", dtype="float32"), description="What measure runs."
    )
    measured_rows: tuple[Count, ...] = Field((8, 16, 64, 256), description="T of the measured forwards.")
    threads: int | None = Field(None, ge=1, description="Torch threads; none: torch's choice, all cores.")

    @field_validator("traffic")
    @classmethod
    def _curves_exist(cls, value: dict[str, TrafficConfig], info: ValidationInfo) -> dict[str, TrafficConfig]:
        for name, kind in value.items():
            try:
                kind.curve(info.data.get("block_size", 1))
            except ValueError as error:
                raise ValueError(f"of {name}: {error}") from None
        return value

    @field_validator("block_sizes")
    @classmethod
    def _within_the_head(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        longest = info.data.get("block_size")
        for K in value:
            if longest is not None and longest < K:
                raise ValueError(f"must be <= block_size ({longest}), got {K}")
        return value

    def curves(self) -> list[AcceptanceCurve]:
        """Acceptance of every kind of text."""
        return [kind.curve(self.block_size) for kind in self.traffic.values()]
