"""Options of the generate job: the only place where they live."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from orthrus_core.decoding.config import EngineConfig
from orthrus_core.decoding.sampling import SamplingParams
from pipelines.config import ModelConfig, Section
from pipelines.storage_config import StorageConfig
from pipelines.urls import Url


class PromptConfig(Section):
    """Where a row's prompt comes from: exactly one of column, messages and template."""

    column: str | None = Field(None, description="Text column that holds the prompt.")
    messages: str | None = Field(None, description="Column with a list of {role, content} messages.")
    template: str | None = Field(None, description="Jinja template over the row's columns.")
    system: str | None = Field(None, description="System message put before prompts that have none.")
    chat: bool = Field(
        True, description="Render through the tokenizer's chat template; false: the text as it is."
    )
    template_args: dict[str, Any] = Field(
        default_factory=dict,
        description="Extra variables of the chat template, such as enable_thinking: false.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("column", "messages", "template") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"must have exactly one of column, messages, template, got {found}")
        if not self.chat and (self.messages is not None or self.system is not None):
            raise ValueError("must have chat: true with messages or system")
        return self


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
        "auto", description="auto: by file ending (.parquet .pq, .jsonl .ndjson, the latter also .gz)."
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


class SamplingColumns(Section):
    """Columns whose value replaces an option for its row, where it is not null."""

    max_new_tokens: str | None = Field(None, description="Column with the row's own max_new_tokens.")


class SamplingConfig(SamplingParams):
    """How each completion is chosen and where it ends; per-row values from columns."""

    columns: SamplingColumns = Field(
        default_factory=SamplingColumns, description="Per-row values, by option name."
    )

    @property
    def params(self) -> SamplingParams:
        """What the engine takes."""
        return SamplingParams(**self.model_dump(exclude={"columns"}))


class OutputConfig(Section):
    """Where the result goes."""

    path: Url = Field(description="Directory or any fsspec URL; holds data/ and _run/ afterwards.")
    token_ids: bool = Field(False, description="Also write the completion's token ids.")
    prompt_token_ids: bool = Field(False, description="Also write the prompt's token ids.")


class RunConfig(Section):
    """How the work is spread over machines. Nothing here but unit_rows changes the output files."""

    unit_rows: int = Field(256, ge=1, description="Most rows of one work unit = one output file.")
    actors: int = Field(1, ge=1, description="Engines side by side, each in its own process.")
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
    progress_every_s: float = Field(10.0, gt=0, description="Seconds between progress lines.")
    ray_address: str | None = Field(
        None, description="Cluster to join; none: a running one or a new local one; local: always new."
    )


class GenerateConfig(Section):
    """The whole generate job."""

    input: InputConfig = Field(description="Prompts.")
    model: ModelConfig = Field(description="Model.")
    decode: EngineConfig = Field(default_factory=EngineConfig, description="Engine.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="Choice and end of text.")
    output: OutputConfig = Field(description="Result.")
    run: RunConfig = Field(default_factory=RunConfig, description="Machines.")
    storage: StorageConfig = Field(default_factory=StorageConfig, description="Object storage.")
