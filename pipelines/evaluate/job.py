"""The evaluate job: is the text right, is it the text of AR decoding, and how fast does it come?"""

import json
import logging
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import orthrus_core
from orthrus_core.errors import ConfigError
from orthrus_core.models.loading import load_config
from orthrus_core.models.model import OrthrusLM
from pipelines.checkpoint.directory import Checkpoint, fetch, load_tokenizer, locate
from pipelines.config.versions import versions
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.grades import CODE_NOTE, check_grader
from pipelines.evaluate.memory import weigh_modes
from pipelines.evaluate.page import evaluation_page
from pipelines.evaluate.peers.authors import authors_peer
from pipelines.evaluate.peers.vllm import vllm_peer
from pipelines.evaluate.prompts import PromptSet, describe, read_prompt_sets
from pipelines.evaluate.replay import time_replay
from pipelines.evaluate.speed import Peers, check_room, time_load
from pipelines.evaluate.texts import ITSELF_DTYPE, Texts
from pipelines.generate.job.sizes import device_here
from pipelines.storage.files import put

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure everything that the config asks for and write the report after each measurement.

    Returns:
        The report, as written to `config.output`; `ended` is null as long as something is to be measured.
    Raises:
        ConfigError: model, prompts or options that do not fit together; before anything is measured.
        OrthrusError: another engine failed.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    checkpoint = locate(config.model)
    config = _with_context(config, checkpoint)
    tokenizer = load_tokenizer(checkpoint.path)
    prompt_sets, absent = read_prompt_sets(config, checkpoint)
    _check(config, prompt_sets, absent)
    report: dict[str, Any] = {
        "created": _now(),
        "ended": None,
        "model": {"path": config.model.path, "hash": checkpoint.model_hash, "revision": checkpoint.revision},
        "machine": {
            "device": device_here(config.model.device),
            "processor": processor_name(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "versions": versions(),
        "prompt_sets": {name: describe(prompt_set) for name, prompt_set in prompt_sets.items()},
        "left_out": _left_out(config, absent),
        "texts": [],
        "itself": [],
        "speed": [],
        "replay": None,
        "memory": None,
        "config": config.model_dump(mode="json"),
    }
    for name, value in _measured(config, checkpoint, tokenizer, prompt_sets):
        report[name] = [*report[name], value] if isinstance(report[name], list) else value
        _write(config.output, report)
    report["ended"] = _now()
    _write(config.output, report)
    config.output.with_suffix(".html").write_text(evaluation_page(report), encoding="utf-8")
    return report


def _measured(
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    tokenizer: "PreTrainedTokenizerBase",
    prompt_sets: Mapping[str, PromptSet],
) -> Iterator[tuple[str, Any]]:
    """Every figure with the section of the report that it belongs to."""
    if exactness := config.exactness:
        for dtype in exactness.dtypes:
            model = load(config, checkpoint, dtype)
            asked = exactness.itself if dtype == ITSELF_DTYPE else ()
            with ExitStack() as stack:
                peers = _start(stack, asked, config, model, checkpoint, max(exactness.batches or (1,)))
                yield from Texts(config, model, tokenizer, prompt_sets).compare(peers)
    if speed := config.speed:
        model = load(config, checkpoint, config.model.dtype)
        with ExitStack() as stack:
            most = max(one.batch for one in speed.loads)
            peers = _start(stack, speed.systems, config, model, checkpoint, most)
            for prompt_set in _timed(config, prompt_sets):
                for one in speed.loads:
                    yield "speed", time_load(config, model, prompt_set, one, peers)
    if config.replay:
        yield "replay", time_replay(config, device_here(config.model.device))
    if config.memory:
        yield "memory", weigh_modes(config, checkpoint, prompt_sets, device_here(config.model.device))


def _check(config: EvaluateConfig, prompt_sets: Mapping[str, PromptSet], absent: Mapping[str, str]) -> None:
    """Refuse what could only fail after hours."""
    for name in prompt_sets:
        check_grader(name, config.prompt_sets[name])
    if config.memory and config.memory.prompt_set in absent:
        raise ConfigError(absent[config.memory.prompt_set])
    for prompt_set in _timed(config, prompt_sets):
        assert config.speed is not None
        for one in config.speed.loads:
            check_room(config, prompt_set, one.context)
    if config.memory:
        check_room(config, prompt_sets[config.memory.prompt_set])


def _timed(config: EvaluateConfig, prompt_sets: Mapping[str, PromptSet]) -> list[PromptSet]:
    return [prompt_sets[name] for name in config.timed_sets if name in prompt_sets]


def _left_out(config: EvaluateConfig, absent: Mapping[str, str]) -> list[str]:
    """What was asked for and is not measured, with the reasons."""
    lines = list(absent.values())
    lines += [
        f"prompt_sets.{name}: {CODE_NOTE}"
        for name, source in config.prompt_sets.items()
        if source.score == "code" and name not in absent
    ]
    asked: set[str] = set(config.exactness.itself if config.exactness else ())
    asked.update(config.speed.systems if config.speed else ())
    if "vllm" in asked and not config.vllm.python.exists():
        lines.append(f"vLLM: no {config.vllm.python}; `make bench-peers` installs it")
    if "authors" in asked and config.authors.path is None:
        lines.append("the authors' code: authors.path does not say where it is")
    return lines


def _start(
    stack: ExitStack,
    asked: Collection[str],
    config: EvaluateConfig,
    model: OrthrusLM,
    checkpoint: Checkpoint,
    max_sequences: int,
) -> Peers:
    """Start the engines behind pipes that are asked for, which end with the stack."""
    peers: Peers = {}
    if "vllm" in asked:
        peers = stack.enter_context(vllm_peer(config, model, max_sequences=max_sequences))
    if "authors" in asked:
        peers = {**peers, **stack.enter_context(authors_peer(config, model, fetch(checkpoint)))}
    return peers


def broken_promises(report: Mapping[str, Any]) -> list[str]:
    """Say where the engine called itself exact and rows differ from AR decoding all the same."""
    return [
        f"{text['prompt_set']} in {text['dtype']}, temperature {text['temperature']:g}, batch "
        f"{text['batch']}: {rows - identical} of {rows} rows"
        for text in report["texts"]
        for rows, identical in [(text["exactness"]["rows"], text["exactness"]["identical_tokens"])]
        if text["exactness"]["level"] == "exact" and identical < rows
    ]


def _with_context(config: EvaluateConfig, checkpoint: Checkpoint) -> EvaluateConfig:
    """Resolve max_context where the config leaves it open: the model's."""
    most = load_config(checkpoint.path, needs_head=False).max_position_embeddings
    if config.decode.max_context > most:
        raise ConfigError(
            f"decode.max_context must be <= {most}, the model's positions, got {config.decode.max_context}"
        )
    decode = config.decode.model_copy(update={"max_context": config.decode.max_context or most})
    return config.model_copy(update={"decode": decode})


def load(config: EvaluateConfig, checkpoint: Checkpoint, dtype: str) -> OrthrusLM:
    """Load the model in a dtype, "auto" for the checkpoint's, on the config's device."""
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    return orthrus_core.load_model(
        fetch(checkpoint), dtype=kind, device=device_here(config.model.device), needs_head=False
    )


def _write(path: Path, report: Mapping[str, Any]) -> None:
    put(str(path), (json.dumps(report, indent=2) + "\n").encode())


def processor_name() -> str:
    """As /proc/cpuinfo says it, or the platform's word."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
