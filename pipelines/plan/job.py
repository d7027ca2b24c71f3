"""The plan job: throughput by formula, a generate job's capacity, and the formula against this machine."""

from dataclasses import dataclass

import torch

import orthrus_core
from orthrus_core.evaluation.calibration import Calibration, Comparison, calibrate_hardware, compare_forward
from orthrus_core.evaluation.cost import Hardware
from orthrus_core.evaluation.throughput import Throughput, simulate
from orthrus_core.models.model import OrthrusLM
from pipelines.checkpoint import fetch, locate
from pipelines.config import ModelConfig, load_config
from pipelines.plan.capacity import Capacity, job_shape, open_job, plan_capacity
from pipelines.plan.config import MEASURED, PlanConfig, Presets

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
    assert config.model is not None  # the config refuses that without a job
    presets = load_config(Presets, config.presets)
    return simulate(
        presets.device(config.hardware),
        presets.shape(config.model),
        config.curves(),
        batch_sizes=config.batch_sizes,
        contexts=config.contexts,
        block_sizes=config.block_sizes,
    )


def capacity(config: PlanConfig) -> Capacity:
    """What the generate job of the config takes.

    Raises:
        ConfigError: the job's config, data or model are not as it says, or the presets lack the device.
    """
    assert config.job is not None
    known = (
        None if config.hardware == MEASURED else load_config(Presets, config.presets).device(config.hardware)
    )
    job = open_job(config.job)
    hardware = known or _measured_hardware(config, job.config.model)
    _, block_size = job_shape(job)
    is_cpu = config.hardware == MEASURED and hardware.memory_bytes is None
    return plan_capacity(
        config.job, job, hardware, config.curves(block_size), device_type="cpu" if is_cpu else "cuda"
    )


def _measured_hardware(config: PlanConfig, model: ModelConfig) -> Hardware:
    """This machine, its figures measured under the job's model."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    loaded = _load(model)
    measured = calibrate_hardware(loaded).hardware
    if loaded.device.type != "cuda":
        return measured
    return measured.model_copy(
        update={"memory_bytes": torch.cuda.get_device_properties(loaded.device).total_memory}
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
