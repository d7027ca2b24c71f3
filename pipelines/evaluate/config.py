"""Options of the evaluate job."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from orthrus_core.engine.config import EngineConfig
from orthrus_core.request import MOST_TEMPERATURE, SamplingParams
from pipelines.config.model import ModelConfig
from pipelines.config.section import Section
from pipelines.config.urls import Url
from pipelines.evaluate.speed_config import (
    AuthorsConfig,
    MemoryConfig,
    ReplayConfig,
    SpeedConfig,
    VllmConfig,
)
from pipelines.generate.config.job import GenerateConfig, GenerateModelConfig, InputConfig
from pipelines.generate.config.output import OutputConfig
from pipelines.generate.config.prompt import PromptConfig

Temperature = Annotated[float, Field(ge=0, le=MOST_TEMPERATURE)]
DType = Literal["float32", "bfloat16", "float16"]


class PromptSetConfig(Section):
    """One set of prompts, with answers where there are any."""

    path: Url = Field(
        description="File, glob or directory of Parquet or JSONL; local, any fsspec URL, or a hub data set's "
        "hf://datasets/owner/name[@revision][/path]."
    )
    column: str | None = Field(None, description="Text column that holds the prompt; or `template`.")
    template: str | None = Field(None, description="Jinja template over the columns that makes the prompt.")
    chat: bool = Field(True, description="Render through the tokenizer's chat template.")
    id_column: str | None = Field(None, description="Column that names rows; none: {shard}:{row}.")
    rows: int | None = Field(None, ge=1, description="Most rows, from the first; none: all.")
    required: bool = Field(True, description="false: a set that cannot be had is left out, with a line.")
    score: Literal["demo", "math", "code"] | None = Field(
        None,
        description="demo: check answers by the demo's rule; math: by math-verify, the right one behind the "
        "last #### of its column, or the whole of it; code: not checked, since that would run what the model "
        "wrote; none: no answers are checked.",
    )
    kind_column: str = Field("kind", description="With score demo: text column with the kind of task.")
    answer_column: str = Field("answer", description="With score: text column with the right answer.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.column is None) == (self.template is None):
            found = "neither" if self.column is None else "both"
            raise ValueError(f"must have exactly one of column and template, got {found}")
        return self

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """Columns that the check of answers reads: of the kind, where there are kinds, and of the answer."""
        if self.score == "demo":
            return self.kind_column, self.answer_column
        return (self.answer_column,) if self.score == "math" else ()


class ExactnessConfig(Section):
    """Texts of consensus and AR side by side, in whole blocks: exactness, acceptance, right answers."""

    dtypes: tuple[DType, ...] = Field(("float32", "bfloat16"), description="Types of weights.")
    temperatures: tuple[Temperature, ...] | None = Field(
        None, description="Each beside the rest of `sampling`; 0: greedy; none: its own."
    )
    batches: tuple[PositiveInt, ...] | None = Field(
        None,
        description="Sequences in flight; none: decode.max_sequences. Two or more: AR is compared with "
        "itself at the first and the last, too.",
    )
    itself: tuple[Literal["transformers", "vllm"], ...] = Field(
        (),
        description="Others that are compared with themselves at the first and the last batch, greedy, in "
        "BF16: transformers' generate, vLLM where it is installed.",
    )

    @model_validator(mode="after")
    def _two_batches(self) -> Self:
        if self.itself and len(set(self.batches or ())) < 2:
            raise ValueError(f"itself needs two batches, got {list(self.batches or ())}")
        return self


class EvaluateConfig(Section):
    """The whole evaluate job."""

    model: ModelConfig = Field(description="Model; its dtype is that of the speed and memory sections.")
    prompt_sets: dict[str, PromptSetConfig] = Field(min_length=1, description="Prompts, by a name.")
    decode: EngineConfig = Field(default_factory=EngineConfig, description="Engine; it runs in both modes.")
    sampling: SamplingParams = Field(
        default_factory=SamplingParams, description="Choice of tokens and end of text."
    )
    rows: int | None = Field(
        None, ge=1, description="Most rows of every set, to cut an evaluation short; none: as the sets say."
    )
    exactness: ExactnessConfig | None = Field(
        default_factory=ExactnessConfig, description="Comparison of texts; none: none."
    )
    threads: int | None = Field(None, ge=1, description="Torch threads; none: torch's choice, all cores.")
    speed: SpeedConfig | None = Field(None, description="Timing; none: none.")
    replay: ReplayConfig | None = Field(None, description="Timing at a set acceptance; none: none.")
    memory: MemoryConfig | None = Field(None, description="Peak memory; none: not measured.")
    vllm: VllmConfig = Field(default_factory=VllmConfig, description="vLLM, where it is asked for.")
    authors: AuthorsConfig = Field(
        default_factory=AuthorsConfig, description="The authors' code, where it is asked for."
    )
    output: Path = Field(description="Report, a JSON file, and a page beside it; replaced if there are any.")

    @field_validator("prompt_sets")
    @classmethod
    def _plain_names(cls, value: dict[str, PromptSetConfig]) -> dict[str, PromptSetConfig]:
        for name in value:
            if not re.fullmatch(r"\w+", name):
                raise ValueError(f"names must be letters, digits and _, got {name!r}")
        return value

    @field_validator("sampling")
    @classmethod
    def _no_stop_strings(cls, value: SamplingParams) -> SamplingParams:
        if value.stop:
            raise ValueError(f"stop must be empty, since tokens are compared, got {list(value.stop)}")
        return value

    @field_validator("decode")
    @classmethod
    def _no_mode(cls, value: EngineConfig) -> EngineConfig:
        if "mode" in value.model_fields_set:
            raise ValueError(f"must have no mode, since both modes are run, got {value.mode}")
        return value

    @field_validator("speed", "memory")
    @classmethod
    def _known_sets(
        cls, value: SpeedConfig | MemoryConfig | None, info: ValidationInfo
    ) -> SpeedConfig | MemoryConfig | None:
        if isinstance(value, SpeedConfig):
            named = value.prompt_sets or ()
        else:
            named = (value.prompt_set,) if value else ()
        known = info.data.get("prompt_sets", {})
        for name in named:
            if name not in known:
                raise ValueError(f"names the prompt set {name!r}, which is none of {', '.join(known)}")
        return value

    @field_validator("exactness", "speed")
    @classmethod
    def _rules_of_others(
        cls, value: ExactnessConfig | SpeedConfig | None, info: ValidationInfo
    ) -> ExactnessConfig | SpeedConfig | None:
        sampling = info.data.get("sampling", SamplingParams())
        alone = isinstance(value, ExactnessConfig) and not value.itself
        if value is None or alone:
            return value
        if sampling.ignore_eos or sampling.stop_token_ids:
            raise ValueError(
                "needs sampling without ignore_eos and stop_token_ids, which other engines do not have"
            )
        if sampling.temperature and not isinstance(value, ExactnessConfig):
            raise ValueError(
                f"needs sampling.temperature 0, got {sampling.temperature}: other noise, other text"
            )
        return value

    @field_validator("exactness")
    @classmethod
    def _batches_fit(cls, value: ExactnessConfig | None, info: ValidationInfo) -> ExactnessConfig | None:
        decode = info.data.get("decode", EngineConfig())
        most = max((value and value.batches) or (0,))
        if decode.token_budget is not None and most > decode.token_budget:
            raise ValueError(f"batches must be <= decode.token_budget ({decode.token_budget}), got {most}")
        return value

    @property
    def timed_sets(self) -> tuple[str, ...]:
        """Names of the prompt sets to time."""
        if self.speed is None:
            return ()
        return tuple(self.prompt_sets) if self.speed.prompt_sets is None else self.speed.prompt_sets


def generate_config(config: EvaluateConfig, name: str) -> GenerateConfig:
    """A generate job whose prompts are those of a set: they are read and rendered as it does it."""
    source = config.prompt_sets[name]
    prompt = PromptConfig(column=source.column, template=source.template, chat=source.chat)
    paths = InputConfig(paths=(source.path,), prompt=prompt, id_column=source.id_column, carry=())
    output = OutputConfig(path="unused")
    model = GenerateModelConfig(**config.model.model_dump())
    return GenerateConfig(input=paths, model=model, decode=config.decode, output=output)
