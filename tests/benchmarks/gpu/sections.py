"""The sections of the GPU benchmark: which there are, what they need, running them within a time budget."""

import importlib.metadata
import importlib.util
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field

from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.evaluation.random_model import random_model
from tests.benchmarks.gpu import checks, engines, steps, training
from tests.benchmarks.gpu.kernels import Load, time_kernels
from tests.benchmarks.gpu.products import time_products
from tests.benchmarks.gpu.report import Report, Section
from tests.benchmarks.gpu.shapes import model_shape

logger = logging.getLogger(__name__)

SectionName = Literal[
    "versions",
    "parity",
    "exactness",
    "bandwidth",
    "step",
    "decode",
    "train",
    "kernels",
    "products",
    "ladder",
    "trajectories",
]
NOTES: dict[SectionName, str] = {
    "versions": "What runs where.",
    "products": "Each product of a layer by number of rows M, and for which M its first row has the "
    "bits that it has alone. To reach: all of them with the kernel.",
    "ladder": "An engine of random weights as a user starts it: budgets that agree, what forwards and cells "
    "of the cache cost, prompts (operations by orthrus_core.models.cost), sampled (0.7 / top-p 0.95) against "
    f"greedy text. To reach: exact, sampled at {engines.LEAST_SAMPLED_SHARE:.0%} of greedy.",
    "trajectories": "Random prompts, greedy or sampled, AR at 16 sequences against consensus at 48: tokens "
    "and bits of log-probabilities. Lines add up.",
    "parity": "Attention backends against attention in float32: largest difference of any output number.",
    "exactness": "Bits of rows in random groupings against the same rows alone; texts of consensus decoding "
    "(greedy and sampled, random schedules) against AR decoding.",
    "bandwidth": "A copy inside the device's memory, bytes read and written counted.",
    "step": "One forward, from laying out its rows on the host to its choices being back there. Bound: bytes "
    "of weights and K/V over the copy bandwidth. To reach on CUDA up to "
    f"T = {steps.STEP_ROWS}: verify within {steps.MAX_STEP_RATIO}x of the bound, draft + verify within "
    f"{steps.MAX_PAIR_RATIO}x of an AR forward.",
    "decode": "Steps of all sequences timed as above. Acceptance is REPLAYED: tokens per step come from "
    "curves with the acceptance lengths printed elsewhere, not from the model, whose weights are random.",
    "train": "Whole steps of training a head (loss, backward, AdamW) on random text; shapes 1.7b and 8b: "
    "2,048 tokens per sequence, 256 anchors, blocks of 32. Operations by orthrus_core.training.cost: pairs "
    "that a mask hides and layers computed again do not count. To reach: "
    f"{training.MIN_RATE_SHARE:.0%} of the data sheet's dense BF16 rate. Not part of a normal run.",
    "kernels": "One layer's attention with one size of the Triton kernel changed at a time; K/V read per "
    "second. For tuning, not part of a normal run: the engine always takes the default sizes.",
}
USUAL: tuple[SectionName, ...] = ("parity", "exactness", "bandwidth", "step", "decode")
TOKENS_PER_STEP = {
    "gsm8k 9.6": 9.6,  # acceptance length of the 8B model, arXiv 2605.12825
    "prose 2.8": 2.8,  # creative writing, 8B on a DGX Spark
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class GpuBenchmark(BaseModel):
    """What to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = Field("cuda", description="cuda, or cpu to try the benchmark itself")
    shape: Literal["tiny", "demo", "1.7b", "8b"] = Field("8b", description="model; its weights are random")
    layers: int | None = Field(None, ge=1, description="fewer layers than the shape has")
    dtypes: tuple[Literal["bf16", "fp16", "fp32"], ...] = Field(
        ("bf16",), min_length=1, description="dtypes to check; times use the first"
    )
    sections: tuple[SectionName, ...] = Field(USUAL, min_length=1, description="what to run, in order")
    batches: tuple[int, ...] = Field((1, 8, 32, 128), min_length=1, description="sequences of decode")
    contexts: tuple[int, ...] = Field(
        (512, 4096, 16384), min_length=1, description="cells per sequence of decode; step uses the first"
    )
    budget_s: float = Field(500.0, ge=0, description="no further line is started after this many seconds")
    out: Path = Field(Path("outputs/bench-gpu"), description="directory of gpu.json and gpu.md")
    compiled: bool = Field(True, description="whether forwards go through torch.compile")


class Sections:
    """The sections by name; a model is made when one first needs it."""

    def __init__(self, options: GpuBenchmark):
        self._options = options
        self._device = torch.device(options.device)
        self._dtypes = [DTYPES[name] for name in options.dtypes]
        self._shape = model_shape(options.shape, dtype=self._dtypes[0], num_layers=options.layers)
        self._bytes_per_s: float | None = None
        self._timer: steps.StepTimer | None = None

    def parity(self) -> Iterator[dict[str, Any]]:
        """Backends against plain attention."""
        yield from checks.check_parity(self._shape, dtypes=self._dtypes, device=self._device)

    def exactness(self) -> Iterator[dict[str, Any]]:
        """Bits of the kernels, texts of the engine."""
        yield from checks.check_kernel_bits(self._shape, dtypes=self._dtypes, device=self._device)
        yield from checks.check_engine(
            self._options.shape, self._shape, dtypes=self._dtypes, device=self._device
        )

    def bandwidth(self) -> Iterator[dict[str, Any]]:
        """Copy bandwidth."""
        yield {"copy_gb_per_s": self._copy_bytes_per_s() / 1e9}

    def step(self) -> Iterator[dict[str, Any]]:
        """Forwards against the bandwidth bound."""
        bytes_per_s, context = self._copy_bytes_per_s(), self._options.contexts[0]
        yield from steps.time_steps(self._step_timer(), self._shape, context=context, bytes_per_s=bytes_per_s)

    def decode(self) -> Iterator[dict[str, Any]]:
        """AR against consensus with replayed acceptance."""
        curves = {
            name: AcceptanceCurve.from_tokens_per_step(tokens, steps.DRAFTS[-1])
            for name, tokens in TOKENS_PER_STEP.items()
        }
        options = self._options
        yield from steps.replay_decoding(
            self._step_timer(), curves, batches=options.batches, contexts=options.contexts
        )

    def train(self) -> Iterator[dict[str, Any]]:
        """Training steps against the matrix rate."""
        self._timer = None  # a section before this one may have left its model and pages
        yield from training.time_training(
            self._options.shape,
            self._shape,
            device=self._device,
            dtype=self._dtypes[0],
            compiled=self._options.compiled,
        )

    def kernels(self) -> Iterator[dict[str, Any]]:
        """Attention in other kernel sizes."""
        options = self._options
        loads = [
            Load(batch, rows_each, context)
            for context in options.contexts
            for batch in options.batches
            for rows_each in (1, steps.ROWS_PER_SEQUENCE)
        ]
        spec = checks.attention_spec(
            self._shape, dtype=self._dtypes[0], device=self._device, max_context=max(options.contexts)
        )
        yield from time_kernels(spec, loads)

    def versions(self) -> Iterator[dict[str, Any]]:
        """Libraries, driver and device."""
        yield from ({"what": name, "version": str(value)} for name, value in _versions().items())

    def products(self) -> Iterator[dict[str, Any]]:
        """Bits and microseconds of matrix products."""
        yield from time_products(self._shape, dtype=self._dtypes[0], device=self._device)

    def ladder(self) -> Iterator[dict[str, Any]]:
        """Budgets, costs and rates of an engine."""
        yield from engines.report_ladder(self._shape, **self._engine_options())

    def trajectories(self) -> Iterator[dict[str, Any]]:
        """Texts of consensus decoding against those of AR."""
        yield from engines.compare_trajectories(self._shape, **self._engine_options())

    def _engine_options(self) -> dict[str, Any]:
        self._timer = None  # a section before this one may have left its model and pages
        compiled = self._options.compiled
        return {"device": self._device, "dtype": self._dtypes[0], "compiled": compiled}

    def _copy_bytes_per_s(self) -> float:
        if self._bytes_per_s is None:
            self._bytes_per_s = steps.copy_bytes_per_s(self._device)
        return self._bytes_per_s

    def _step_timer(self) -> steps.StepTimer:
        if self._timer is None:
            max_context = max(self._options.contexts)
            self._timer = steps.StepTimer(
                random_model(
                    self._shape,
                    device=self._device,
                    dtype=self._dtypes[0],
                    max_context=max_context + steps.ROOM,
                ),
                self._shape,
                max_sequences=max(*self._options.batches, steps.BUDGETS[-1] // steps.ROWS_PER_SEQUENCE),
                max_context=max_context,
                compiled=self._options.compiled,
            )
        return self._timer


def run_benchmark(options: GpuBenchmark) -> Iterator[Section]:
    """Run the sections asked for, writing the report after every line; yield each when it is done.

    Raises:
        ConfigError: the device is not there.
    """
    ends_at = time.monotonic() + options.budget_s
    report = Report(_conditions(options), options.out)
    sections = Sections(options)
    for name in options.sections:
        section = Section(name, NOTES[name])
        report.sections.append(section)
        _run(section, getattr(sections, name)(), report, ends_at)
        yield section


def _run(section: Section, rows: Iterator[dict[str, Any]], report: Report, ends_at: float) -> None:
    """Collect a section's rows until they end or time is up; a section that breaks is a failed line."""
    try:
        while time.monotonic() < ends_at:
            row = next(rows, None)
            if row is None:
                break
            section.rows.append(row)
            report.write()
        else:
            section.stopped = "the time budget is used up"
    except Exception as error:  # of any library below; the other sections still run
        logger.exception("section=%s", section.title)
        section.rows.append({"error": f"{type(error).__name__}: {error}"[:300], "passed": False})
    report.write()


def _versions() -> dict[str, Any]:
    found = {name: importlib.metadata.version(name) for name in ("transformers", "pydantic")}
    found["torch"] = torch.__version__
    found["triton"] = importlib.metadata.version("triton") if importlib.util.find_spec("triton") else "none"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "cuda": torch.version.cuda,
            "device": properties.name,
            "capability": torch.cuda.get_device_capability(),
            "memory GiB": round(properties.total_memory / 2**30, 1),
            "processors": properties.multi_processor_count,
        }
    return found


def _conditions(options: GpuBenchmark) -> dict[str, Any]:
    cuda = options.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        raise ConfigError("device cuda: this machine has none; try --device cpu --shape tiny")
    return {
        "device": torch.cuda.get_device_name() if cuda else options.device,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "shape": options.shape,
        "layers": options.layers or "all",
        "dtypes": ", ".join(options.dtypes),
        "compiled": options.compiled,
    }
