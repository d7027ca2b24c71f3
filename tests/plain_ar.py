"""Plain AR decoding, one request at a time: what every other way of decoding has to equal bit for bit."""

import random
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from orthrus_core import Completion, Engine, EngineConfig, Request


def alone(
    model,
    requests: Iterable[Request],
    tokenizer=None,
    *,
    token_budget: int = 32,
    max_context: int = 128,
    **options,
) -> list[Completion]:
    """Plain AR decoding, each request with an engine of its own: no traffic, no shared prefixes."""
    config = EngineConfig(
        mode="autoregressive",
        token_budget=token_budget,
        max_sequences=1,
        max_context=max_context,
        self_check=False,
        **options,
    )
    return [Engine(model, config, tokenizer).run([request])[0] for request in requests]


def outcomes(completions: Iterable[Completion]) -> list[tuple]:
    """All that a completion says of its request, and nothing of how it was decoded."""
    return [
        (
            one.token_ids,
            one.finish_reason,
            one.error,
            one.stop_string,
            one.logprobs,
            one.top_logprobs,
            one.prompt_logprobs,
            one.stats.logprob,
            one.stats.min_logit_gap,
        )
        for one in completions
    ]


def run_with_arrivals(engine: Engine, requests: Sequence[Request], source: random.Random) -> list[Completion]:
    """Submit requests in random order between steps; completions in the order of `requests`."""
    order = list(range(len(requests)))
    source.shuffle(order)
    index_of_id, done = {}, {}
    while order or engine.has_work:
        while order and source.random() < 0.6:
            index = order.pop()
            index_of_id[engine.submit(requests[index])] = index
        done.update((index_of_id[c.request_id], c) for c in engine.step())
    return [done[index] for index in range(len(requests))]


def logits_before(model, prompt: list[int], token_ids: list[int]) -> Tensor:
    """(tokens, V) logits of the places that tokens behind a prompt were chosen at, by one whole forward."""
    with torch.inference_mode():
        return model(torch.tensor([prompt + token_ids]), use_cache=False).logits[0, len(prompt) - 1 : -1]


def numbers_of(model, prompt: list[int], token_ids: list[int]) -> tuple[list[float], float]:
    """Log-probability of each token behind a prompt, and the smallest gap of the two largest logits there."""
    logits = logits_before(model, prompt, token_ids)
    logprobs = logits.log_softmax(-1).gather(1, torch.tensor(token_ids)[:, None])[:, 0]
    largest = logits.topk(2).values
    return logprobs.tolist(), float((largest[:, 0] - largest[:, 1]).min())
