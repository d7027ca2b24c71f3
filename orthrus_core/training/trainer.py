"""The loop: batches -> gradient -> update -> log, evaluation, save. The same for every objective."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.nn import Module, Parameter

from orthrus_core.errors import OrthrusError
from orthrus_core.training.config import LoopConfig, OptimizerConfig
from orthrus_core.training.divergence import TrainingDiverged, check_finite
from orthrus_core.training.losses import LossSum
from orthrus_core.training.optimizer import ScheduledOptimizer, lr_factor
from orthrus_core.training.packing import PADDING_DOCUMENT, PackedBatch
from orthrus_core.training.parallel import Parallel
from orthrus_core.training.precision import hold_weights, warn_where_emulated
from orthrus_core.training.progress import Progress, Rhythm
from orthrus_core.training.sharding import copy_whole, whole_copy

__all__ = ["BatchStream", "Objective", "Progress", "Trainer", "TrainingDiverged"]

logger = logging.getLogger(__name__)

TASKS = ("log", "evaluate", "save")


class Objective(Protocol):
    """What is trained and against what."""

    @property
    def module(self) -> Module:
        """Owns the parameters, trained and frozen."""

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """The parameters to train, by name; others once `module` is sharded."""

    def loss(self, batch: PackedBatch) -> LossSum:
        """The sums of losses and weights of one batch, with gradient."""

    def evaluate(self, batches: Sequence[PackedBatch]) -> dict[str, float]:
        """Named figures over held-out batches; changes nothing."""

    def state_dict(self) -> dict[str, Any]:
        """What else it needs to go on as if never interrupted, such as a generator's state."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""


class BatchStream(Protocol):
    """Batches with a position, which whoever saves keeps beside `Trainer.state_dict`."""

    def __iter__(self) -> Iterator[PackedBatch]:
        """Itself; a plain iterator serves too where nothing is resumed."""

    def __next__(self) -> PackedBatch:
        """The next batch of this process."""

    def state_dict(self) -> dict[str, Any]:
        """The position, ready for JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position."""


def report_nothing(kind: str, step: int, figures: Mapping[str, float]) -> None:
    """The `report` of a run that nobody watches."""


class Trainer:
    """Runs one objective over a stream of batches until the token budget is used up."""

    def __init__(
        self,
        objective: Objective,
        *,
        optimizer: OptimizerConfig,
        loop: LoopConfig,
        held_out: Sequence[PackedBatch],
        save: Callable[["Trainer"], None],
        report: Callable[[str, int, Mapping[str, float]], None] = report_nothing,
        parallel: Parallel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a run; the weights of `objective.module` are cast and sharded in place.

        Args:
            held_out: batches for `objective.evaluate`, the same on every process.
            save: called on every process when a save is due, and at the end.
            report: takes ("train" or "held_out", step, figures) on every process, figures over all of them.
            clock: seconds, for tests.
        """
        self.progress = Progress()
        self.parallel = parallel or Parallel()
        self._objective = objective
        self._optimizer_config = optimizer
        self._loop = loop
        self._held_out = held_out
        self._save = save
        self._report = report
        self._clock = clock
        hold_weights(objective.module, frozen=loop.frozen_precision)
        warn_where_emulated(loop.precision, next(objective.module.parameters()).device)
        self.parallel.prepare(objective.module)
        self._named = dict(objective.named_parameters())
        self.parallel.sum_gradients_of(self._named.values())
        self._optimizer = ScheduledOptimizer(self._named.items(), optimizer)
        self._since_log: list[tuple[float, float]] = []
        self._at_log = (0, 0.0)
        self._last_batch: PackedBatch | None = None

    def run(self, batches: BatchStream | Iterator[PackedBatch]) -> Progress:
        """Train until `loop.max_tokens` document tokens are seen or every process's `batches` end.

        Goes on from where a loaded state stands. No batch is taken before it is needed, so the position of
        `batches` in a save is that of the step.

        Raises:
            TrainingDiverged: loss or gradient are no numbers.
        """
        progress, rhythm = self.progress, Rhythm(self._clock)
        start_s, was_finished = self._clock() - progress.seconds, progress.finished
        self._at_log = (progress.tokens, progress.seconds)
        while progress.tokens < self._loop.max_tokens:
            micro_batches, num_tokens, due = self._next(batches, rhythm)
            if not micro_batches:
                break
            progress.finished = was_finished = False
            self._step(micro_batches)
            progress.step += 1
            progress.tokens += num_tokens
            progress.seconds = self._clock() - start_s
            self._after_step(due)
        if not was_finished:
            progress.finished = True
            self._evaluate()
            self._save(self)
        return progress

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on, whole tensors on the CPU; called by all, empty but on rank 0.

        The weights are FP32. Of other processes it holds the states of their objectives, by rank.
        """
        keep = self.parallel.rank == 0
        state = {
            "parameters": {name: whole_copy(p, keep=keep) for name, p in self._named.items()},
            "optimizer": self._optimizer.state_dict(keep=keep),
            "progress": self.progress.state() | {"seconds": self.progress.seconds},
            "objectives": self.parallel.gather(self._objective.state_dict()),
        }
        return state if keep else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, with any number of processes and any mode.

        Args:
            state: the same on every process. With more processes than saved it, the states of their
                objectives are used again from the first.
        Raises:
            OrthrusError: it is of other parameters.
        """
        if state["parameters"].keys() != self._named.keys():
            differing = sorted(state["parameters"].keys() ^ self._named.keys())
            raise OrthrusError(f"the saved state is of another model: {', '.join(differing[:3])} differ")
        for name, parameter in self._named.items():
            copy_whole(parameter, state["parameters"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress.from_state(state["progress"])
        objectives = state["objectives"]
        self._objective.load_state_dict(objectives[self.parallel.rank % len(objectives)])

    def _next(
        self, batches: Iterator[PackedBatch], rhythm: Rhythm
    ) -> tuple[list[PackedBatch], int, dict[str, bool]]:
        """This process's micro-batches, and, agreed among all, their tokens and the tasks due by time.

        Returns:
            No micro-batches where no process has one left. A process that has fewer than others gets padding:
            all have to run the same forwards, or they would wait for each other forever.
        """
        wanted, taken = self._loop.accumulate, []
        for batch in batches:
            taken.append(batch)
            if len(taken) == wanted:
                break
        self._last_batch = taken[-1] if taken else self._last_batch
        num_tokens = sum(batch.num_tokens for batch in taken)
        due = [rhythm.is_due(task, getattr(self._loop, f"{task}_every_s")) for task in TASKS]
        if self.parallel.world_size > 1:
            by_rank_0 = [is_due and self.parallel.rank == 0 for is_due in due]
            mine = torch.tensor([num_tokens, len(taken), self._last_batch is None, *by_rank_0])
            num_tokens, num_taken, num_without, *due = self.parallel.sum(mine).tolist()
            if num_taken and num_without:
                raise OrthrusError(f"{num_without} processes have no batch to train on: use fewer processes")
            if num_taken:
                taken += [_padding_like(self._last_batch)] * (wanted - len(taken))
        return taken, num_tokens, dict(zip(TASKS, map(bool, due), strict=True))

    def _step(self, micro_batches: Sequence[PackedBatch]) -> None:
        """One update: the gradient of the sum of losses over the sum of weights, over all processes."""
        losses = []
        for index, batch in enumerate(micro_batches, start=1):
            loss = self._objective.loss(batch)
            self.parallel.expect_backward(is_last=index == len(micro_batches))
            loss.total.backward()
            losses.append(torch.stack([loss.total.detach().float(), loss.weight.detach().float()]))
        self.parallel.finish_gradients()
        sharded, whole = self._optimizer.squared_norm()
        mine = torch.stack(losses).sum(0)
        total, weight, sharded = self.parallel.sum(torch.stack([*mine, sharded.to(mine.device)])).unbind()
        # A step without anything to learn has weight 0 and total 0.
        weight = weight.clamp(min=1e-6)
        norm = (sharded + whole.to(sharded.device)).sqrt() / weight
        # The one wait for the device in a step: a step must be known to be good before it is taken.
        mean, weight, norm = torch.stack([total / weight, weight, norm]).tolist()
        check_finite(
            mean,
            norm,
            step=self.progress.step + 1,
            batches=micro_batches,
            losses=[loss[0] for loss in losses],
        )
        self._optimizer.step(self._share_done(), grad_norm=norm, weight=weight)
        self._since_log.append((mean, norm))

    def _share_done(self) -> float:
        return self.progress.tokens / self._loop.max_tokens

    def _after_step(self, due: Mapping[str, bool]) -> None:
        step, loop = self.progress.step, self._loop
        is_last = self.progress.tokens >= loop.max_tokens
        if due["log"]:
            self._log()
        if not is_last and (due["evaluate"] or _divides(loop.evaluate_every_steps, step)):
            self._evaluate()
        if not is_last and (due["save"] or _divides(loop.save_every_steps, step)):
            self._save(self)

    def _log(self) -> None:
        progress = self.progress
        losses, norms = zip(*self._since_log, strict=True)
        tokens, seconds = progress.tokens - self._at_log[0], progress.seconds - self._at_log[1]
        figures = {
            "loss": sum(losses) / len(losses),
            "grad_norm": sum(norms) / len(norms),
            "lr": lr_factor(self._share_done(), self._optimizer_config),
            "tokens_per_s": tokens / max(seconds, 1e-9),
            "tokens": progress.tokens,
            "seconds": progress.seconds,
        }
        self._at_log = (progress.tokens, progress.seconds)
        self._since_log.clear()
        if self.parallel.rank == 0:
            logger.info(
                "train step=%d tokens=%d loss=%.4f grad_norm=%.3f lr=%.3f tokens_per_s=%.0f elapsed_s=%.0f",
                progress.step,
                progress.tokens,
                *(figures[name] for name in ("loss", "grad_norm", "lr", "tokens_per_s", "seconds")),
            )
        self._report("train", progress.step, figures)

    def _evaluate(self) -> None:
        figures = self._objective.evaluate(self._held_out)
        at = {"step": self.progress.step, "tokens": self.progress.tokens}
        self.progress.history.append({**at, **figures})
        if self.parallel.rank == 0:
            text = " ".join(f"{name}={value:.4f}" for name, value in figures.items())
            logger.info("held_out step=%d tokens=%d %s", self.progress.step, self.progress.tokens, text)
        self._report("held_out", self.progress.step, figures)


def _divides(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


def _padding_like(batch: PackedBatch | None) -> PackedBatch:
    """A batch of the same shape without documents."""
    assert batch is not None
    nothing = torch.zeros_like(batch.input_ids)
    return batch._replace(
        input_ids=nothing,
        position_ids=nothing,
        document_idx=torch.full_like(nothing, PADDING_DOCUMENT),
        is_completion=torch.zeros_like(batch.is_completion),
    )
