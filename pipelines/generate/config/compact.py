"""How files are compressed, and what becomes of a finished run's files."""

from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.config.section import ONE_OR_MORE, Section
from pipelines.config.urls import Url


class Compression(Section):
    """How Parquet files are compressed; may change when a run goes on."""

    codec: Literal["zstd", "snappy", "gzip", "brotli", "lz4", "none"] = Field("zstd", description="Codec.")
    level: int | None = Field(None, description="Level of zstd, gzip or brotli; none: the codec's own.")

    @model_validator(mode="after")
    def _codec_has_the_level(self) -> Self:
        if self.level is None:
            return self
        if self.codec not in ("zstd", "gzip", "brotli"):
            raise ValueError(f"must have no level with {self.codec}, got {self.level}")
        least, most = (
            getattr(pa.Codec, f"{end}_compression_level")(self.codec) for end in ("minimum", "maximum")
        )
        if not least <= self.level <= most:
            raise ValueError(f"must have a level of {least} to {most} with {self.codec}, got {self.level}")
        return self


class CompactConfig(Section):
    """What jobs/compact.py makes of a finished run (docs/compaction.md); data/ stays as it is."""

    path: Url | None = Field(None, description="Where the files go; none: compacted/ below output.path.")
    file_mib: float = Field(512.0, gt=0, description="Size of a file, about; the last ones are smaller.")
    partition_by: Annotated[tuple[str, ...], ONE_OR_MORE] = Field(
        (), description="Columns by whose values rows go to directories COLUMN=VALUE; the files lack them."
    )
    delta: Url | None = Field(
        None, description="Delta table that the rows are appended to, once, instead of files at path."
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.path is not None and self.delta is not None:
            raise ValueError("must have at most one of path and delta")
        return self
