"""Options of the generate job: the only place where they live."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from orthrus_core.engine.config import EngineConfig
from pipelines.config import ModelConfig, Section
from pipelines.generate.output_config import OutputConfig
from pipelines.generate.prompt_config import PromptConfig
from pipelines.generate.sampling_config import SamplingConfig
from pipelines.storage_config import StorageConfig
from pipelines.urls import Url


class DatasetConfig(Section):
    """A data set by name, read through the `datasets` library."""

    name: str = Field(
        description="Hub name (owner/name), or a local directory with data files or written by save_to_disk."
    )
    config_name: str | None = Field(None, description="Configuration (subset) of the data set.")
    split: str = Field("train", description="Split, as `datasets` writes it: train, test[:10%].")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub; none: its newest.")
    files: str | None = Field(None, description="Files or a glob within the data set; none: all of them.")

    @field_validator("name")
    @classmethod
    def _is_given(cls, value: str) -> str:
        if not value:
            raise ValueError("must not be empty")
        return value


class InputConfig(Section):
    """Which rows to read and what to make of them."""

    paths: tuple[Url, ...] = Field(
        (),
        description="Files, globs or directories; local (from the working directory) or any fsspec URL; "
        "hf://datasets/owner/name[@revision][/path]. A file named twice is read once.",
    )
    format: Literal["auto", "parquet", "jsonl"] = Field(
        "auto",
        description="auto: by file ending (.parquet .pq, .jsonl .ndjson, the latter two also with .gz .bz2 "
        ".xz .zst).",
    )
    prompt: PromptConfig = Field(description="Where prompts come from.")
    id_column: str | None = Field(
        None, description="Column that becomes `id`; none: {shard}:{row}, counted from 0."
    )
    carry: tuple[str, ...] | None = Field(
        None, description="Input columns written beside the completion; none given: all of them."
    )

    on_bad_shard: Literal["fail", "skip"] = Field(
        "fail",
        description="Of a shard that cannot be read or lacks the prompt column. fail: nothing starts, "
        "all are named. skip: it is left out and reported. Damage that only shows while reading ends the run "
        "after all other units (fail), or makes error rows (skip).",
    )

    on_changed: Literal["fail", "accept"] = Field(
        "fail",
        description="Of an input file of the same size, but with another etag or time than when the run was "
        "begun (local files: and other content). fail: the run does not go on. accept: it does, on your word "
        "that the rows are the same; log and manifest name the files.",
    )

    dataset: DatasetConfig | None = Field(None, description="A data set by name, instead of paths.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.paths) == (self.dataset is not None):
            found = "both" if self.paths else "neither"
            raise ValueError(f"must have either paths or dataset, got {found}")
        return self

    @field_validator("paths", mode="before")
    @classmethod
    def _one_path_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class RunConfig(Section):
    """How the work is spread over machines. Nothing here but unit_rows changes the output files."""

    unit_rows: int = Field(256, ge=1, description="Most rows of one work unit = one output file.")
    actors: int = Field(1, ge=1, description="Engines side by side, each in its own process.")
    max_actors: int | None = Field(
        None,
        ge=1,
        description="Most engines: the run starts with `actors` and grows up to this while units wait and "
        "the cluster has room, and shrinks in the tail; none: always `actors`.",
    )
    cpus_per_actor: float = Field(1.0, gt=0, description="CPUs that Ray reserves for each.")
    gpus_per_actor: float | None = Field(
        None, ge=0, description="GPUs that Ray reserves for each; none: 1 on cuda, 0 on cpu."
    )
    threads_per_actor: int | None = Field(
        None, ge=1, description="Torch threads of each; none: cpus_per_actor rounded down, at least 1."
    )
    calls_in_flight: int | None = Field(
        None, ge=1, description="Units an actor works on at once; none: enough to keep its engine full."
    )
    retries: int = Field(
        3,
        ge=0,
        description="Deaths of actors in a row, without a finished unit between them, that are repaired.",
    )
    max_error_share: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="Most error rows of all rows; with more of them the rows are written, but the run fails. "
        "1.0: any number.",
    )
    progress_every_s: float = Field(10.0, gt=0, description="Seconds between progress lines.")
    ray_address: str | None = Field(
        None, description="Cluster to join; none: a running one or a new local one; local: always new."
    )
    dedup: bool = Field(
        False,
        description="Generate rows with the same prompt tokens, sampling options, seed and sample once for "
        "each actor and give all of them its text; counters of a copy are those of its original.",
    )
    dedup_tokens: int = Field(
        1_000_000,
        ge=0,
        description="Tokens of finished completions that an actor keeps for copies, about 70 bytes each.",
    )
    drain_s: float = Field(
        300.0,
        ge=0,
        description="Seconds that units in progress get to finish after SIGTERM or Ctrl-C; then all stops.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port at which a local Ray offers its metrics to Prometheus; none: any free one. "
        "A cluster has its own.",
    )
    step_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Seconds after which a step of an engine is taken to hang: its process is ended, and a "
        "new one does its units again. Loading and compiling at the start do not count.",
    )

    @property
    def pool(self) -> str:
        """How many engines, in words."""
        return f"{self.actors}" if self.most_actors == self.actors else f"{self.actors} to {self.most_actors}"

    @property
    def most_actors(self) -> int:
        """Engines that there may be at once."""
        return self.max_actors or self.actors

    @model_validator(mode="after")
    def _most_is_at_least_actors(self) -> Self:
        if self.most_actors < self.actors:
            raise ValueError(f"must have max_actors >= actors, got {self.max_actors} and {self.actors}")
        return self


class AuditConfig(Section):
    """Rows that are decoded again in plain AR to prove the text. Changes no row."""

    enabled: bool = Field(
        True, description="Decode some rows again; false: also accept an output whose audit found a mismatch."
    )
    fraction: float = Field(0.01, ge=0.0, le=1.0, description="Share of the rows.")
    min_rows: int = Field(8, ge=0, description="Least rows of a run, error rows among them.")


class ReportConfig(Section):
    """What the report says beyond its figures. Changes no row."""

    group_by: tuple[str, ...] = Field(
        (), description="Carried input columns by whose values the report breaks figures down."
    )
    gpu_hour_price: float | None = Field(
        None, ge=0.0, description="Price of an hour of one actor's device, for cost per million tokens."
    )
    currency: str = Field("USD", description="Currency of the price.")

    @field_validator("group_by", mode="before")
    @classmethod
    def _one_column_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class GenerateConfig(Section):
    """The whole generate job."""

    input: InputConfig = Field(description="Prompts.")
    model: ModelConfig = Field(description="Model.")
    decode: EngineConfig = Field(default_factory=EngineConfig, description="Engine.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="Choice and end of text.")
    output: OutputConfig = Field(description="Result.")
    run: RunConfig = Field(default_factory=RunConfig, description="Machines.")
    storage: StorageConfig = Field(default_factory=StorageConfig, description="Object storage.")
    audit: AuditConfig = Field(default_factory=AuditConfig, description="Proof by sample.")
    report: ReportConfig = Field(default_factory=ReportConfig, description="Report.")
