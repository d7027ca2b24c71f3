"""This machine as the cost formulas see it, and how far their predictions are from a real forward."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from orthrus_core.attention.rows import Span
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.evaluation.cost import Hardware, ModelShape, forward_s
from orthrus_core.models.model import OrthrusLM

PAGE_SIZE = 16
MATMUL_ROWS = (16, 256)  # one size that a lone sequence runs, one of a full batch
SECONDS_PER_FIGURE = 0.3


@dataclass(frozen=True)
class Calibration:
    """Measured figures of a machine.

    Attributes:
        hardware: for the formulas: bandwidth, the better matrix rate, overhead.
        flops_per_s: rate of a matrix product by its rows.
    """

    hardware: Hardware
    flops_per_s: dict[int, float]


@dataclass(frozen=True)
class Comparison:
    """One forward of the engine's runner, predicted and measured.

    Attributes:
        rows: T.
        sequences: S; the rows are shared evenly.
        context: positions before each sequence's rows.
        predicted_s: by `forward_s`.
        measured_s: median.
    """

    rows: int
    sequences: int
    context: int
    predicted_s: float
    measured_s: float

    @property
    def ratio(self) -> float:
        """Predicted over measured; below 1 the forward is slower than the formula says."""
        return self.predicted_s / self.measured_s


def shape_of(model: OrthrusLM) -> ModelShape:
    """Return the shape of a loaded model in its own dtype."""
    return ModelShape.from_config(model.config, dtype_bytes=model.dtype.itemsize)


def calibrate_hardware(model: OrthrusLM, *, seconds: float = SECONDS_PER_FIGURE) -> Calibration:
    """Measure the machine that the model is on, in the model's dtype.

    The buffer that is copied has the size of the weights, so that a model that lives in the processor's cache
    is not charged for memory. The overhead is what a forward of one row takes beyond the roofline.

    Args:
        model: on its device.
        seconds: spent on each of the four figures.
    """
    shape = shape_of(model)
    rates = {rows: _matmul_rate(model, rows, seconds) for rows in MATMUL_ROWS}
    ideal = Hardware(bytes_per_s=_copy_rate(model, seconds), flops_per_s=max(rates.values()))
    one_row_s = measure_forward(model, rows=1, sequences=1, context=0, seconds=seconds)
    overhead_s = one_row_s - forward_s(ideal, shape, rows=1, sequences=1, context=0)
    return Calibration(ideal.model_copy(update={"overhead_s": max(0.0, overhead_s)}), rates)


def compare_forward(
    model: OrthrusLM,
    hardware: Hardware,
    *,
    rows: int,
    sequences: int,
    context: int,
    seconds: float = SECONDS_PER_FIGURE,
) -> Comparison:
    """Predict and measure one forward; arguments as in `measure_forward`."""
    shape = shape_of(model)
    return Comparison(
        rows,
        sequences,
        context,
        predicted_s=forward_s(hardware, shape, rows=rows, sequences=sequences, context=context),
        measured_s=measure_forward(model, rows=rows, sequences=sequences, context=context, seconds=seconds),
    )


def measure_forward(
    model: OrthrusLM, *, rows: int, sequences: int, context: int, seconds: float = SECONDS_PER_FIGURE
) -> float:
    """Median seconds of a forward of the AR view, the layout of its rows included.

    Args:
        model: on its device.
        rows: T, a multiple of `sequences`; all are used.
        sequences: S.
        context: positions before each sequence's rows.
        seconds: spent at most, past a first forward that is not counted.
    """
    if rows % sequences:
        raise ValueError(f"rows must be a multiple of sequences ({sequences}), got {rows}")
    length = context + rows // sequences
    runner = _runner(model, sequences=sequences, length=length)
    spans = [Span(slot, context, [0] * (rows // sequences)) for slot in range(sequences)]

    def forward() -> Tensor:
        return runner.run(runner.lay_out(spans, "ar", token_budget=rows), "ar").ids

    return _median_s(forward, model.device, seconds)


def _runner(model: OrthrusLM, *, sequences: int, length: int) -> ModelRunner:
    """A runner whose page tables hold `length` positions of every sequence."""
    pages = -(-length // PAGE_SIZE)
    tables = PageTables(
        PagePool(sequences * pages + 1, PAGE_SIZE), num_slots=sequences, pages_per_sequence=pages
    )
    for slot in range(sequences):
        tables.grow(slot, length)
    return ModelRunner(model.eval(), tables)


def _copy_rate(model: OrthrusLM, seconds: float) -> float:
    """Bytes per second, read and written, of a copy as large as the weights that a forward reads."""
    source = torch.zeros(shape_of(model).matrix_params, dtype=model.dtype, device=model.device)
    target = torch.zeros_like(source)
    taken_s = _median_s(lambda: target.copy_(source), model.device, seconds)
    return 2 * source.numel() * source.element_size() / taken_s


def _matmul_rate(model: OrthrusLM, rows: int, seconds: float) -> float:
    """FLOP per second of the model's own MLP matrix times `rows` rows."""
    D, F = model.config.hidden_size, model.config.intermediate_size
    inputs = torch.ones(rows, D, dtype=model.dtype, device=model.device)
    weight = torch.ones(F, D, dtype=model.dtype, device=model.device)
    taken_s = _median_s(lambda: torch.nn.functional.linear(inputs, weight), model.device, seconds)
    return 2 * rows * D * F / taken_s


@torch.inference_mode()
def _median_s(work: Callable[[], Tensor], device: torch.device, seconds: float) -> float:
    """Median seconds of `work`, repeated for about `seconds` and at least three times."""
    _finish(work(), device)
    taken: list[float] = []
    end_at = time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < end_at:
        started_at = time.perf_counter()
        _finish(work(), device)
        taken.append(time.perf_counter() - started_at)
    return statistics.median(taken)


def _finish(result: Tensor, device: torch.device) -> None:
    """Wait for a device that works behind our back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
