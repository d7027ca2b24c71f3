"""The plan job: throughput by formula, and the formula against this machine."""

from dataclasses import dataclass

import torch

import orthrus_core
from orthrus_core.evaluation.calibration import Calibration, Comparison, calibrate_hardware, compare_forward
from orthrus_core.evaluation.throughput import Throughput, simulate
from orthrus_core.models.model import OrthrusLM
from pipelines.checkpoint import fetch, locate
from pipelines.config import ModelConfig, load_config
from pipelines.plan.config import PlanConfig, Presets

MEASURED_CONTEXT = 256
MEASURED_SEQUENCES = 8


@dataclass(frozen=True)
class Measurement:
    """The machine's figures, and predicted against measured forwards."""

    calibration: Calibration
    comparisons: list[Comparison]


def plan(config: PlanConfig) -> list[Throughput]:
    """Simulate every batch size and context of the config.

    Raises:
        ConfigError: the presets cannot be read or lack the device or the model.
    """
    presets = load_config(Presets, config.presets)
    return simulate(
        presets.device(config.hardware),
        presets.shape(config.model),
        config.curves(),
        batch_sizes=config.batch_sizes,
        contexts=config.contexts,
        block_sizes=config.block_sizes,
    )


def measure(config: PlanConfig) -> Measurement:
    """Calibrate this machine and time forwards of the measured model: one sequence, and several."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = _load(config.measured_model)
    calibration = calibrate_hardware(model)
    comparisons = [
        compare_forward(model, calibration.hardware, rows=rows, sequences=sequences, context=MEASURED_CONTEXT)
        for sequences in (1, MEASURED_SEQUENCES)
        for rows in config.measured_rows
        if rows % sequences == 0
    ]
    return Measurement(calibration, comparisons)


def _load(config: ModelConfig) -> OrthrusLM:
    dtype = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return orthrus_core.load_model(fetch(locate(config)), dtype=dtype, device=device)
