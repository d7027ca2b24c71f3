"""Options of the generate job: the only place where they live."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from orthrus_core.decoding.config import EngineConfig
from orthrus_core.decoding.sampling import SamplingParams
from pipelines.config import ModelConfig, Section


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


class InputConfig(Section):
    """Which rows to read and what to make of them."""

    paths: tuple[str, ...] = Field(
        min_length=1,
        description="Files, globs or directories; local (from the working directory) or any fsspec URL. "
        "A file named twice is read once.",
    )
    format: Literal["auto", "parquet", "jsonl"] = Field(
        "auto", description="auto: by file ending (.parquet .pq, .jsonl .ndjson)."
    )
    prompt: PromptConfig = Field(description="Where prompts come from.")
    id_column: str | None = Field(
        None, description="Column that becomes `id`; none: {shard}:{row}, counted from 0."
    )
    carry: tuple[str, ...] | None = Field(
        None, description="Input columns written beside the completion; none given: all of them."
    )

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

    path: str = Field(description="Directory or any fsspec URL; holds data/ and _run/ afterwards.")
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
    step_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Seconds after which a step of an engine is taken to hang: its process is ended, and a "
        "new one does its units again. Loading and compiling at the start do not count.",
    )


class GenerateConfig(Section):
    """The whole generate job."""

    input: InputConfig = Field(description="Prompts.")
    model: ModelConfig = Field(description="Model.")
    decode: EngineConfig = Field(default_factory=EngineConfig, description="Engine.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="Choice and end of text.")
    output: OutputConfig = Field(description="Result.")
    run: RunConfig = Field(default_factory=RunConfig, description="Machines.")
