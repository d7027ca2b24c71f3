"""What is written of a run's rows, where, and under which names."""

from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from pipelines.config.section import Section
from pipelines.config.urls import Url
from pipelines.generate.config.compact import CompactConfig, Compression
from pipelines.generate.config.mapped import MappedSection
from pipelines.read.columns import DIAGNOSTICS, NAMES


class RowFilters(Section):
    """What a row must fulfil to be written to data/; the others go to dropped/ with their reason."""

    finish_reason: tuple[Literal["stop", "length", "context"], ...] | None = Field(
        None, min_length=1, description="Only rows that ended for one of these reasons."
    )
    min_tokens: int | None = Field(None, ge=0, description="Least completion_tokens.")
    max_tokens: int | None = Field(None, ge=0, description="Most completion_tokens.")
    min_chars: int | None = Field(None, ge=0, description="Least characters of the completion.")
    max_chars: int | None = Field(None, ge=0, description="Most characters of the completion.")
    regex: str | None = Field(
        None, description="Expression in RE2 syntax that must be found in the completion (^...$: all of it)."
    )
    not_regex: str | None = Field(
        None, description="Expression in RE2 syntax that must not be found in the completion."
    )
    valid_json: bool = Field(False, description="The completion must be one JSON value and nothing else.")
    keep: str | None = Field(
        None, description="Column of type bool, carried or made by output.map, that must be true."
    )
    drop_errors: bool = Field(False, description="Error rows go to dropped/ too; false: they stay in data/.")

    @field_validator("regex", "not_regex")
    @classmethod
    def _re2_takes_it(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                pc.match_substring_regex(pa.array([""]), value)
            except pa.ArrowInvalid as error:
                raise ValueError(f"must be an RE2 expression, got {value!r}: {error}") from None
        return value

    @model_validator(mode="after")
    def _least_is_at_most_most(self) -> Self:
        for least, most in (("min_tokens", "max_tokens"), ("min_chars", "max_chars")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise ValueError(f"must have {least} <= {most}, got {low} and {high}")
        return self


class OutputConfig(MappedSection):
    """Where the result goes."""

    path: Url = Field(description="Directory or any fsspec URL; holds data/ and _run/ afterwards.")
    token_ids: bool = Field(False, description="Also write the completion's token ids.")
    prompt_token_ids: bool = Field(False, description="Also write the prompt's token ids.")
    prefill: bool = Field(
        False,
        description="Let completions begin with what they go on with: input.prompt.prefill, and a last "
        "assistant's message. Filters see them so; token_ids and counts are the model's own.",
    )
    diagnostics: bool = Field(
        True,
        description="Also write how a row was decoded: " + ", ".join(DIAGNOSTICS) + ". The report's figures "
        "do not need them.",
    )
    map: str | None = Field(
        None,
        description="Function package.module:function that every unit's finished rows go through before they "
        "are written, as the file will have them; error rows do not (docs/hooks.md).",
    )
    map_columns: dict[str, str] = Field(
        default_factory=dict,
        description="Columns that the function makes, with their types as in input.map_columns; written "
        "after all others.",
    )
    rename: dict[str, str] = Field(
        default_factory=dict,
        description="Other names for output columns, such as error: generation_error where the input has a "
        "column error.",
    )
    filters: RowFilters = Field(
        default_factory=RowFilters, description="Rows that fail one of these go to dropped/ instead of data/."
    )
    compression: Compression = Field(
        default_factory=Compression, description="Compression of data/ and dropped/; a codec alone is enough."
    )
    compact: CompactConfig = Field(default_factory=CompactConfig, description="Files after the run.")

    @field_validator("compression", mode="before")
    @classmethod
    def _a_codec_is_enough(cls, value: Any) -> Any:
        return {"codec": value} if isinstance(value, str) else value

    @field_validator("map_columns")
    @classmethod
    def _are_new(cls, value: dict[str, str]) -> dict[str, str]:
        if taken := [name for name in value if name in NAMES]:
            raise ValueError(f"must have names that no output column has, got {', '.join(taken)}")
        return value

    @field_validator("rename")
    @classmethod
    def _names_are_known_and_differ(cls, value: dict[str, str]) -> dict[str, str]:
        if unknown := [name for name in value if name not in NAMES]:
            raise ValueError(
                f"must name output columns, got {', '.join(unknown)}; there are {', '.join(NAMES)}"
            )
        if unnamed := [name for name, written in value.items() if not written.strip()]:
            raise ValueError(f"must give every output column a name, got none for {', '.join(unnamed)}")
        written = [value.get(name, name) for name in NAMES]
        if twice := dict.fromkeys(name for name in written if written.count(name) > 1):
            raise ValueError(f"must give every output column a name of its own, got {', '.join(twice)} twice")
        return value
