"""The loop: batch -> loss -> optimiser -> log, evaluation, snapshot. The same for every objective."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from orthrus_core.training.config import LoopConfig, OptimizerConfig
from orthrus_core.training.losses import LossSum
from orthrus_core.training.optimizer import MuonAdamW, lr_factor
from orthrus_core.training.packing import PackedBatch

logger = logging.getLogger(__name__)


class Objective(Protocol):
    """What is trained and against what."""

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """The parameters to train, by name."""

    def loss(self, batch: PackedBatch) -> LossSum:
        """The loss of one batch, with gradient."""

    def evaluate(self, batches: Sequence[PackedBatch]) -> dict[str, float]:
        """Named figures over held-out batches; changes nothing."""


@dataclass
class Progress:
    """How far a run is; all that a snapshot tells about it."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "finished": self.finished,
            "history": list(self.history),
        }


class Trainer:
    """Runs one objective over a stream of batches until the token budget is used up."""

    def __init__(
        self,
        objective: Objective,
        *,
        optimizer: OptimizerConfig,
        loop: LoopConfig,
        held_out: Sequence[PackedBatch],
        save: Callable[[Progress], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a run.

        Args:
            held_out: batches for `objective.evaluate`.
            save: writes a snapshot; called every `loop.save_every_s` and once at the end.
            clock: seconds, for tests.
        """
        self.progress = Progress()
        self._objective = objective
        self._optimizer_config = optimizer
        self._loop = loop
        self._held_out = held_out
        self._save = save
        self._clock = clock
        self._optimizer = MuonAdamW(objective.named_parameters(), optimizer)
        self._rhythm = _Rhythm(clock)
        self._since_log: list[tuple[Tensor, Tensor]] = []
        self._tokens_at_log = 0

    def run(self, batches: Iterator[PackedBatch]) -> Progress:
        """Train until `loop.max_tokens` document tokens are seen or `batches` ends."""
        start_s = self._clock()
        for batch in batches:
            self._step(batch)
            self.progress.seconds = self._clock() - start_s
            self._log_when_due()
            if self.progress.tokens >= self._loop.max_tokens:
                break
            if self._rhythm.is_due("evaluate", self._loop.evaluate_every_s):
                self._evaluate()
            if self._rhythm.is_due("save", self._loop.save_every_s):
                self._save(self.progress)
        self.progress.finished = True
        self._evaluate()
        self._save(self.progress)
        return self.progress

    def _step(self, batch: PackedBatch) -> None:
        loss = self._objective.loss(batch)
        # A batch without anything to learn has weight 0 and total 0.
        mean = loss.total / loss.weight.clamp(min=1e-6)
        mean.backward()
        grad_norm = self._optimizer.step(self.progress.tokens / self._loop.max_tokens)
        self.progress.step += 1
        self.progress.tokens += batch.num_tokens
        self._since_log.append((mean.detach(), grad_norm))

    def _log_when_due(self) -> None:
        elapsed_s = self._rhythm.due_after("log", self._loop.log_every_s)
        if elapsed_s is None:
            return
        losses, norms = (torch.stack(values).mean().item() for values in zip(*self._since_log, strict=True))
        progress = self.progress
        logger.info(
            "train step=%d tokens=%d loss=%.4f grad_norm=%.3f lr=%.3f tokens_per_s=%.0f elapsed_s=%.0f",
            progress.step,
            progress.tokens,
            losses,
            norms,
            lr_factor(progress.tokens / self._loop.max_tokens, self._optimizer_config),
            (progress.tokens - self._tokens_at_log) / elapsed_s,
            progress.seconds,
        )
        self._tokens_at_log = progress.tokens
        self._since_log.clear()

    def _evaluate(self) -> None:
        figures = self._objective.evaluate(self._held_out)
        at = {"step": self.progress.step, "tokens": self.progress.tokens}
        self.progress.history.append({**at, **figures})
        text = " ".join(f"{name}={value:.4f}" for name, value in figures.items())
        logger.info("held_out step=%d tokens=%d %s", self.progress.step, self.progress.tokens, text)


class _Rhythm:
    """Remembers when each repeated task ran last."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start_s = clock()
        self._last_s: dict[str, float] = {}

    def due_after(self, task: str, every_s: float) -> float | None:
        """Seconds since the last run of the task if it is due now (and counts as run), else None."""
        now_s = self._clock()
        elapsed_s = now_s - self._last_s.get(task, self._start_s)
        if elapsed_s < every_s:
            return None
        self._last_s[task] = now_s
        return elapsed_s

    def is_due(self, task: str, every_s: float) -> bool:
        """Whether the task is due now; if so it counts as run."""
        return self.due_after(task, every_s) is not None
