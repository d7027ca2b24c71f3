"""Options of the generate job: the only place where they live."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orthrus_core.engine.config import EngineConfig
from pipelines.cluster.config import RunConfig
from pipelines.config.model import ModelConfig
from pipelines.config.section import ONE_OR_MORE, Section
from pipelines.config.urls import Url
from pipelines.generate.config.mapped import MappedSection
from pipelines.generate.config.output import OutputConfig
from pipelines.generate.config.prompt import PromptConfig
from pipelines.generate.config.sampling import SamplingConfig
from pipelines.read.config import FilesConfig
from pipelines.storage.config import StorageConfig


class InputConfig(FilesConfig, MappedSection):
    """Which rows to read and what to make of them."""

    prompt: PromptConfig = Field(description="Where prompts come from.")
    map: str | None = Field(
        None,
        description="Function package.module:function that every unit's rows go through before prompts are "
        "made: a list of rows (dicts) in, a list of as many rows out (docs/hooks.md).",
    )
    map_columns: dict[str, str] = Field(
        default_factory=dict,
        description="Columns that the function makes, with their types (string, int64, double, bool, "
        "list<string>, struct<a: string>, json, ...); they stand beside the files' columns, or in the place "
        "of one of that name.",
    )
    id_column: str | None = Field(
        None, description="Column that becomes `id`; none: {shard}:{row}, counted from 0."
    )
    carry: tuple[str, ...] | None = Field(
        None, description="Input columns written beside the completion; none given: all of them."
    )
    pack_files: bool = Field(
        False,
        description="Small files that follow each other and have the same columns make one unit, and so one "
        "output file, of up to run.unit_rows rows. Ids and text stay as they are.",
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


class GenerateModelConfig(ModelConfig):
    """Which model writes."""

    lora: Url | None = Field(
        None,
        description="LoRA adapter in peft's format, added to the weights when they are loaded: a directory, "
        "local or s3://, or a hub id. A diffusion head stays as it is, and drafts for the model without it.",
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        description="Processes that share the model of an engine, on one node, each with a slice of its "
        "weights and cache and, on cuda, a GPU (docs/cluster.md). Text may differ from that of "
        "another number, as rounding does.",
    )
    weights: Literal["auto", "int8", "fp8"] = Field(
        "auto",
        description="Of linear layers. auto: in `dtype`. int8, fp8: one byte each with a scale for every "
        "output channel, made when the model is loaded (docs/backbones.md).",
    )
    quantise_output_head: bool = Field(
        False, description="With int8 or fp8: the output head's weights too; false: those stay in `dtype`."
    )

    @model_validator(mode="after")
    def _has_weights_to_quantise(self) -> Self:
        if self.quantise_output_head and self.weights == "auto":
            raise ValueError("quantise_output_head needs weights int8 or fp8, got auto")
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

    group_by: Annotated[tuple[str, ...], ONE_OR_MORE] = Field(
        (), description="Carried input columns by whose values the report breaks figures down."
    )
    gpu_hour_price: float | None = Field(
        None,
        ge=0.0,
        description="Price of an hour of one actor's device or devices, for cost per million tokens.",
    )
    currency: str = Field("USD", description="Currency of the price.")


class GenerateConfig(Section):
    """The whole generate job."""

    input: InputConfig = Field(description="Prompts.")
    model: GenerateModelConfig = Field(description="Model.")
    decode: EngineConfig = Field(default_factory=EngineConfig, description="Engine.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="Choice and end of text.")
    output: OutputConfig = Field(description="Result.")
    run: RunConfig = Field(default_factory=RunConfig, description="Machines.")
    storage: StorageConfig = Field(default_factory=StorageConfig, description="Object storage.")
    audit: AuditConfig = Field(default_factory=AuditConfig, description="Proof by sample.")
    report: ReportConfig = Field(default_factory=ReportConfig, description="Report.")
