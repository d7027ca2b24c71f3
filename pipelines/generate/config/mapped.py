"""A section whose rows a function of the user's can go over."""

from typing import TYPE_CHECKING, Self

import pyarrow as pa
from pydantic import field_validator, model_validator

from pipelines.config.section import Section
from pipelines.read.type_names import parse_type


class MappedSection(Section):
    """A section with the options `map` and `map_columns`."""

    if TYPE_CHECKING:
        map: str | None
        map_columns: dict[str, str]

    @property
    def made(self) -> pa.Schema:
        """The columns that the function makes."""
        return pa.schema([(name, parse_type(kind)) for name, kind in self.map_columns.items()])

    @field_validator("map", check_fields=False)
    @classmethod
    def _names_a_function(cls, value: str | None) -> str | None:
        if value is not None:
            module, _, function = value.partition(":")
            if not all(part.isidentifier() for part in [*module.split("."), *function.split(".")]):
                raise ValueError(f"must be package.module:function, got {value!r}")
        return value

    @field_validator("map_columns", check_fields=False)
    @classmethod
    def _types_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        for kind in value.values():
            parse_type(kind)
        return value

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if (self.map is None) == bool(self.map_columns):
            missing = "map" if self.map is None else "map_columns"
            raise ValueError(f"must have both map and map_columns or neither, {missing} is missing")
        return self
