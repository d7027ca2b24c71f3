"""A row's own sampling options: columns that `sampling.columns` names, checked by the options' own rules."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from orthrus_core.errors import RequestError
from orthrus_core.request import GRAMMARS, SamplingParams
from pipelines.config.faults import explain_fault
from pipelines.generate.config.sampling import SamplingConfig

LONGEST_FAULT = 200  # characters; a bad value may be a whole text
TEXTS = {"stop", "bad_words", "logit_bias", *GRAMMARS}
NO_GRAMMAR = {name: SamplingConfig.model_fields[name].default for name in GRAMMARS}


@dataclass(frozen=True)
class RowParams:
    """What a row asks for.

    Attributes:
        max_new_tokens, n: its own or the config's.
        overrides: json of the options that differ from the config's by a column, but for n; None: none.
    """

    max_new_tokens: int
    n: int
    overrides: str | None


def with_overrides(base: SamplingParams, overrides: str) -> SamplingParams:
    """Return a config's parameters with a row's own, as `RowParams` has them."""
    return SamplingParams.model_validate(base.model_dump() | json.loads(overrides))


class ParamColumns:
    """Reads the options of rows."""

    def __init__(self, sampling: SamplingConfig):
        self._columns = sampling.columns.given
        self._base = sampling.model_dump()
        self._default = RowParams(sampling.max_new_tokens, sampling.n, None)
        self._known: dict[str, RowParams] = {}

    def of(self, row: Mapping[str, Any]) -> RowParams:
        """The options of a row.

        Args:
            row: values by column name; null: the config's value.
        Raises:
            RequestError: naming the column, the option's rule and the value.
        """
        values = {}
        for option, column in self._columns.items():
            value = row[column]
            if value is not None and not (isinstance(value, float) and math.isnan(value)):
                values[option] = tuple(value) if isinstance(value, list) else value
        if not values:
            return self._default
        key = repr(values)  # a value may be of any type, unhashable ones among them
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= 4096:  # every row may have a seed of its own
                self._known.clear()
            known = self._known[key] = self._check(values)
        return known

    def _check(self, values: Mapping[str, Any]) -> RowParams:
        self._check_kinds(values)
        grammar = {} if values.keys().isdisjoint(GRAMMARS) else NO_GRAMMAR
        try:
            checked = SamplingConfig.model_validate({**self._base, **grammar, **values})
        except ValidationError as error:
            fault = error.errors()[0]
            column = self._columns.get(str(fault["loc"][0]), "") if fault["loc"] else ""
            text = explain_fault(fault, SamplingConfig)
            raise RequestError(f"column {column}: {text}"[:LONGEST_FAULT]) from None
        if not values.get("max_new_tokens", 1):  # 0 stands for auto in a config alone
            column = self._columns["max_new_tokens"]
            raise RequestError(f"column {column}: max_new_tokens must be >= 1, got 0")
        own = {option: getattr(checked, option) for option in (*values, *grammar) if option != "n"}
        return RowParams(checked.max_new_tokens, checked.n, json.dumps(own) if own else None)

    def _check_kinds(self, values: Mapping[str, Any]) -> None:
        """Refuse what the options' own rules would take, and a row does not mean."""
        for option, value in values.items():
            rule = None
            if option not in TEXTS and isinstance(value, bool | str | bytes):
                rule = "a list of ids" if option == "allowed_token_ids" else "a number"
            # a mapping lacks what is null in its row; the name of a file is for the config alone
            if option == "json_schema" and (not isinstance(value, str) or value.endswith(".json")):
                rule = "a JSON schema as text"
            if rule is not None:
                column = self._columns[option]
                raise RequestError(f"column {column}: {option} must be {rule}, got {value!r:.60}")
