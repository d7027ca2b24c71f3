import sys
from types import SimpleNamespace

import pytest

from pipelines.evaluate.peers.vllm_server import VllmPeer

LENGTHS = {5: 3, 6: 1, 7: 2, 8: 1}  # steps of a request, by its only prompt token


class FakeEngine:
    """Steps all requests at once; a request ends after the steps that LENGTHS says."""

    def __init__(self):
        self.running, self.most, self.params, self.ids = {}, 0, [], []

    def add_request(self, request_id, prompt, params):
        self.ids.append(request_id)
        self.params.append(params)
        self.running[request_id] = [prompt["prompt_token_ids"][0], 0]
        self.most = max(self.most, len(self.running))

    def step(self):
        results = []
        for request_id, state in list(self.running.items()):
            state[1] += 1
            finished = state[1] == LENGTHS[state[0]]
            output = SimpleNamespace(token_ids=(state[0],) * state[1])
            results.append(SimpleNamespace(request_id=request_id, finished=finished, outputs=[output]))
            if finished:
                del self.running[request_id]
        return results


@pytest.fixture
def vllm(monkeypatch):
    made = SimpleNamespace(engine=FakeEngine(), resets=0, options=None)

    def new_llm(**options):
        made.options = options

        def reset():
            made.resets += 1

        return SimpleNamespace(llm_engine=made.engine, reset_prefix_cache=reset)

    module = SimpleNamespace(
        LLM=new_llm, SamplingParams=lambda **fields: SimpleNamespace(**fields), __version__="0.32.0"
    )
    kinds = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY="final"))
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", kinds)
    return made


OPTIONS = {"model": "dir", "dtype": "bfloat16", "max_context": 512, "max_sequences": 64}


@pytest.fixture
def peer(vllm):
    return VllmPeer(OPTIONS | {"compiled": True})


@pytest.mark.parametrize("in_flight", [1, 2, 4, 9])
def test_no_more_than_in_flight_run_at_once_and_outputs_keep_their_order(peer, vllm, in_flight):
    outputs = peer.complete([[5], [6], [7], [8]], in_flight=in_flight, max_new_tokens=9, eos_ids=[2])
    assert outputs == [[5, 5, 5], [6], [7, 7], [8]]
    assert vllm.engine.most == min(in_flight, 4)


def test_request_ids_are_never_used_twice(peer, vllm):
    for _ in range(2):
        peer.complete([[5], [6]], in_flight=2, max_new_tokens=9, eos_ids=[])
    assert len(set(vllm.engine.ids)) == 4


def test_decoding_is_greedy_with_the_given_limits(peer, vllm):
    peer.complete([[6]], in_flight=1, max_new_tokens=9, eos_ids=[2, 3])
    [params] = vllm.engine.params
    assert (params.temperature, params.max_tokens, params.stop_token_ids) == (0.0, 9, [2, 3])


@pytest.mark.parametrize("compiled", [True, False])
def test_the_model_runs_in_the_dtype_asked_for_compiled_or_eager(vllm, compiled):
    VllmPeer(OPTIONS | {"compiled": compiled})
    assert vllm.options["dtype"] == "bfloat16"
    assert (vllm.options["max_model_len"], vllm.options["max_num_seqs"]) == (512, 64)
    assert vllm.options["enforce_eager"] is not compiled


def test_reset_drops_the_prefix_cache(peer, vllm):
    peer.reset()
    assert vllm.resets == 1
