"""Rows with several turns: the model answers, the user speaks again, until all is said or a turn fails."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from orthrus_core.engine.sequence import Completion
from orthrus_core.errors import RequestError
from orthrus_core.request import Request, SamplingParams
from pipelines.generate.decode.dedup import SharedBatch
from pipelines.generate.engine.conversation import Conversation, Turn
from pipelines.generate.prompt.renderer import Prompt, PromptRenderer

Complete = Callable[[Sequence[Request]], Awaitable[SharedBatch]]


class TurnTaker:
    """Completes rows turn by turn, each at its own pace.

    A row's next turn enters the engine when the answer before it is there: the cache then still has the pages
    of both, and the prompt that goes on behind them starts from there.
    """

    def __init__(
        self,
        complete: Complete,
        renderer: PromptRenderer,
        text_of: Callable[[SamplingParams, Completion], str | None],
    ):
        """Set up.

        Args:
            complete: runs requests.
            renderer: of this object alone.
            text_of: the text that a completion is written as; None on error.
        """
        self._complete = complete
        self._renderer = renderer
        self._text_of = text_of
        self._thread = ThreadPoolExecutor(1, "turns")  # a tokenizer is not to be shared between threads

    async def run(self, requests: Sequence[Request], prompts: Sequence[Prompt | None]) -> SharedBatch:
        """Complete rows.

        Args:
            requests: of their first turns.
            prompts: of these, with what follows.
        """
        rows = await asyncio.gather(*map(self._converse, requests, prompts))
        report = (await self._complete([])).report
        return SharedBatch([*rows], report, [all(turn.is_copy for turn in row.turns) for row in rows])

    async def _converse(self, request: Request, prompt: Prompt | None) -> Conversation:
        assert prompt is not None
        assert prompt.content is not None
        num_turns, turns = 1 + len(prompt.content.turns), list[Turn]()
        while True:
            has_more = len(turns) + 1 < num_turns
            request = replace(request, follows=bool(turns), followed=has_more)
            batch = await self._complete([request])
            [completion], [is_copy] = batch.completions, batch.is_copy
            text = self._text_of(request.params, completion)
            turns.append(Turn(request, completion, text, prompt.truncated_tokens, prompt.prefill, is_copy))
            if completion.error is not None or not has_more:
                return Conversation.of(turns, _in_turn(completion.error, len(turns), num_turns))
            try:
                prompt = await self._next(prompt, text or "", request.params.max_new_tokens)
            except RequestError as fault:
                return Conversation.of(turns, _in_turn(str(fault), len(turns) + 1, num_turns))
            request = replace(request, prompt_ids=prompt.ids)

    async def _next(self, prompt: Prompt, answer: str, limit: int) -> Prompt:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._renderer.next_prompt, prompt, answer, limit)


def _in_turn(error: str | None, number: int, num_turns: int) -> str | None:
    return error if error is None or num_turns == 1 else f"turn {number} of {num_turns}: {error}"
