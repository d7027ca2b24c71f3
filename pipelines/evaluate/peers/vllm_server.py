"""vLLM as a peer, for its environment's Python: `python -m pipelines.evaluate.peers.vllm_server OPTIONS`."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from pipelines.evaluate.peers.serving import main


class VllmPeer:
    """vLLM's engine, stepped in this process.

    In flight are as many requests as asked for: when one ends, the next one enters.
    """

    def __init__(self, options: Mapping[str, Any]):
        """Load.

        Args:
            options: model (directory), dtype, max_context, max_sequences, compiled.
        """
        import vllm

        self.version = vllm.__version__
        self._llm: Any = vllm.LLM(
            model=options["model"],
            dtype=options["dtype"],
            max_model_len=options["max_context"],
            max_num_seqs=options["max_sequences"],
            enforce_eager=not options["compiled"],
            skip_tokenizer_init=True,
        )
        self._num_requests = 0

    def reset(self) -> None:
        """Drop the prefixes that earlier prompts left in the cache."""
        self._llm.reset_prefix_cache()

    def complete(
        self, prompts: list[list[int]], *, in_flight: int, max_new_tokens: int, eos_ids: list[int]
    ) -> list[list[int]]:
        """Complete prompts, greedy."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens,
            stop_token_ids=eos_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine, waiting = self._llm.llm_engine, deque(enumerate(prompts))
        outputs: list[list[int]] = [[] for _ in prompts]
        running: dict[str, int] = {}
        while waiting or running:
            while waiting and len(running) < in_flight:
                index, prompt = waiting.popleft()
                self._num_requests += 1
                running[str(self._num_requests)] = index
                engine.add_request(str(self._num_requests), {"prompt_token_ids": prompt}, params)
            for result in engine.step():
                if result.finished:
                    outputs[running.pop(result.request_id)] = list(result.outputs[0].token_ids)
        return outputs


if __name__ == "__main__":
    main(VllmPeer)
