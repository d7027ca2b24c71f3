"""Options of the plan job."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.cost import Hardware, ModelShape
from orthrus_core.evaluation.curve import AcceptanceCurve
from pipelines.config import ModelConfig, Section
from pipelines.urls import Url

MEASURED = "measured"
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


class JobSection(Section):
    """A generate job to plan the capacity for."""

    config: Path = Field(description="Config file of the generate job.")
    set: tuple[str, ...] = Field((), description="Values over it, key.key=value each, as --set takes them.")
    completion_tokens: float | None = Field(
        None, gt=0, description="Mean tokens of a completion; none: as in earlier_run, else max_new_tokens."
    )
    earlier_run: Url | None = Field(
        None, description="Output path of a run on such data: completion length and acceptance are its own."
    )
    gpus: tuple[Count, ...] = Field((1, 2, 4, 8, 16, 32, 64), description="Numbers of GPUs to price.")
    price_per_gpu_hour: float | None = Field(None, gt=0, description="In the currency you think in.")
    deadline_h: float | None = Field(None, gt=0, description="Hours; the plan says how many GPUs meet it.")
    startup_s: float = Field(120.0, ge=0, description="Seconds from the job's start to the first token.")
    memory_share: float = Field(
        0.9, gt=0, le=1, description="Share of the device's memory that an actor may fill."
    )
    sample_rows: Count = Field(256, description="Rows whose prompts are rendered to learn their length.")
    sample_shards: Count = Field(8, description="Files that these rows are taken from.")


class PlanConfig(Section):
    """The whole plan job."""

    presets: Path = Field(description="Yaml file with devices and model shapes by name.")
    hardware: str = Field(description="A device of the presets; measured: this machine, with job's model.")
    model: str | None = Field(None, description="A model shape of the presets; with job: the job's own.")
    job: JobSection | None = Field(None, description="Also the capacity for this generate job.")
    block_size: Count = Field(32, description="K, most drafts of the head.")
    traffic: dict[str, TrafficConfig] = Field(
        default_factory=dict,
        description="Kinds of text by a name; the sequences of a batch take them in turn. "
        "With job: none is as in job.earlier_run.",
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

    @model_validator(mode="after")
    def _something_to_plan(self) -> Self:
        if self.job is None:
            if self.model is None or not self.traffic:
                raise ValueError("must have model and traffic, or a job")
            if self.hardware == MEASURED:
                raise ValueError(f"must have a job where hardware is {MEASURED}")
        elif self.model is not None:
            raise ValueError("must have either model or job: a job's model says its own shape")
        return self

    def curves(self, block_size: int | None = None) -> list[AcceptanceCurve]:
        """Acceptance of every kind of text, of as many drafts as `block_size` says, or the plan's own."""
        return [kind.curve(block_size or self.block_size) for kind in self.traffic.values()]
