"""Which units an actor may begin, and when."""

import asyncio
from collections.abc import Callable

from pipelines.cluster.board import Board, UnitKey

LOOK_S = 0.05  # between two looks of a unit at the engine that it waits for


class UnitGate:
    """Holds an actor's units back until the engine has room for one more, and for good once the run drains.

    A unit in the engine has to be finished before a drain is over; so it enters late: when fewer rows than
    `room` are left of the units before it. Those keep the engine full until it is there.
    """

    def __init__(self, board: Board, num_unfinished: Callable[[], int], room: int):
        """Set up.

        Args:
            num_unfinished: rows that the engine has and has not finished.
            room: rows from which on a unit waits.
        """
        self._board = board
        self._num_unfinished = num_unfinished
        self._room = room
        self._arriving = 0
        self.waiting = 0  # units that wait here

    async def enter(self, unit: UnitKey, num_rows: int) -> None:
        """Wait until a unit may begin; never returns for one that may not.

        Args:
            num_rows: rows that it brings.
        """
        self.waiting += 1
        while self._arriving + self._num_unfinished() >= self._room:
            await asyncio.sleep(LOOK_S)
        self._arriving += num_rows
        if not await self._board.begin(unit):
            await asyncio.Event().wait()
        self.waiting -= 1

    def arrived(self, num_rows: int) -> None:
        """The engine counts these rows now."""
        self._arriving -= num_rows
