"""Rows of a unit to requests for the engine: one for each sample."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from orthrus_core.request import Request, SamplingParams
from pipelines.generate.config.sampling import SamplingConfig
from pipelines.generate.prompt.renderer import Prompt
from pipelines.generate.prompt.row_params import with_overrides
from pipelines.read.columns import PARAMS, PROMPT, PROMPT_IDS, ROW_ERROR, SAMPLES


@dataclass(frozen=True)
class SampleRow:
    """One row of the output.

    Attributes:
        row: its input row within the table.
        sample: number of the completion for this prompt.
        params: how it is decoded.
        request: None exactly where there is an error.
        error: why the prompt cannot be run.
        prompt: what the request was made of, where turns may follow.
    """

    row: int
    sample: int
    params: SamplingParams
    request: Request | None
    error: str | None
    prompt: Prompt | None = None


def prefix_order(requests: Sequence[Request]) -> list[int]:
    """Return the places of requests in the order of their prompts' tokens: alike beginnings come together."""
    return sorted(range(len(requests)), key=lambda place: tuple(requests[place].prompt_ids))


class RequestBuilder:
    """Makes requests; keeps parsed options, since many rows have the same ones."""

    def __init__(self, sampling: SamplingConfig):
        self._base = sampling.params
        self._known: dict[str | None, SamplingParams] = {None: self._base}

    def sample_rows(self, table: pa.Table) -> list[SampleRow]:
        """Rows of the output, in order: all samples of the first row, then those of the second.

        Args:
            table: as `prompt.unit.render_unit` makes it.
        """
        names = (ROW_ERROR, PROMPT_IDS, PARAMS, SAMPLES)
        cells = zip(*(table.column(name).to_pylist() for name in names), _prompts(table), strict=True)
        rows: list[SampleRow] = []
        for row, (error, ids, overrides, samples, prompt) in enumerate(cells):
            params = self._params(overrides)
            for sample in samples:
                request = Request(ids, params, sample=sample) if error is None else None
                rows.append(SampleRow(row, sample, params, request, error, prompt))
        return rows

    def _params(self, overrides: str | None) -> SamplingParams:
        known = self._known.get(overrides)
        if known is None:
            if len(self._known) >= 4096:  # every row may have a seed of its own
                self._known = {None: self._base}
            assert overrides is not None
            known = with_overrides(self._base, overrides)
            self._known[overrides] = known
        return known


def _prompts(table: pa.Table) -> list[Prompt | None]:
    if PROMPT not in table.column_names:
        return [None] * table.num_rows
    return [None if cell is None else pickle.loads(cell) for cell in table.column(PROMPT).to_pylist()]
