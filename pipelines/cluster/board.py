"""What the driver and the engines tell each other while a run is in progress.

Rows do not travel here: one question for every unit that begins, a few figures of every actor a second.
"""

import contextlib
import logging
from typing import Any

logger = logging.getLogger(__name__)

ANSWER_S = 10.0  # the driver waits no longer than this for an answer

UnitKey = tuple[int, int]  # (shard, index)


class BoardState:
    """The state, in a small Ray actor beside the driver.

    Engines ask before they begin a unit, so that after `stop` the driver knows every unit that was begun.
    """

    def __init__(self) -> None:
        self._begun: set[UnitKey] = set()
        self._is_stopped = self._is_closed = False
        self._figures: dict[str, dict[str, Any]] = {}
        self._settings: dict[str, Any] | None = None

    def begin(self, unit: UnitKey) -> bool:
        """Whether a unit may begin; one that was begun before, by an actor that has died, always may."""
        if self._is_stopped and unit not in self._begun:
            return False
        self._begun.add(unit)
        return True

    def settle(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the first engine that asked, for all of them."""
        self._settings = self._settings or settings
        return self._settings

    def stop(self) -> set[UnitKey]:
        """Let no further unit begin; returns those that did."""
        self._is_stopped = True
        return self._begun

    def close(self) -> None:
        """Nobody waits for the engines any more."""
        self._is_closed = True

    def is_closed(self) -> bool:
        """Whether the run is over."""
        return self._is_closed

    def post(self, actor: str, figures: dict[str, Any]) -> None:
        """Keep the last figures of an actor."""
        self._figures[actor] = figures

    def look(self) -> dict[str, Any]:
        """Units begun, and the last figures of every actor: {begun: count, actors: {name: figures}}."""
        return {"begun": len(self._begun), "actors": self._figures}


class Board:
    """A handle on the board, for driver and actors alike; can be sent through Ray.

    A board that does not answer never harms a run: units then begin unasked, and figures are missing.
    """

    def __init__(self, state: Any):
        """Args: state is a Ray actor of BoardState."""
        self._state = state

    async def begin(self, unit: UnitKey) -> bool:
        """Ask whether a unit may begin."""
        import ray

        try:
            return await self._state.begin.remote(unit)
        except ray.exceptions.RayError as error:
            logger.warning("board does not answer, unit %s begins unasked: %r", unit, error)
            return True

    def settle(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Return the settings that all engines shall have; None where the board does not answer."""
        return self._ask("settle", settings)

    def stop(self) -> set[UnitKey] | None:
        """Let no further unit begin; the units that did, or None where the board does not answer."""
        return self._ask("stop")

    def close(self) -> None:
        """Tell engines that are still there to end; does not wait.

        Ray Data drops its engines when a dataset fails, but now and then keeps the record of a call to one of
        them, and with it the engine and its CPU or GPU, until the driver ends.
        """
        with contextlib.suppress(Exception):  # Ray may be gone already, and the engines with it
            self._state.close.remote()

    def is_closed(self) -> bool:
        """Whether the run is over; false where the board does not answer."""
        return bool(self._ask("is_closed"))

    def look(self) -> dict[str, Any]:
        """As `BoardState.look`; empty where the board does not answer."""
        return self._ask("look") or {}

    def post(self, actor: str, figures: dict[str, Any]) -> None:
        """Leave an actor's figures; does not wait."""
        self._state.post.remote(actor, figures)

    def _ask(self, name: str, *arguments: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._state, name).remote(*arguments), timeout=ANSWER_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            # while the machine is busy starting workers nobody answers for a while; that is nothing to report
            logger.log(logging.WARNING if name == "stop" else logging.DEBUG, "board: no answer: %r", error)
            return None


def open_board() -> Board:
    """A board on the driver's own node; it ends with the driver's handle on it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    state = ray.remote(BoardState).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
    return Board(state.remote())
