import sys

import pytest

import pipelines.evaluate.peers.process as process_module
from orthrus_core.errors import OrthrusError
from orthrus_core.evaluation.speed import Measured
from pipelines.evaluate.peers.process import PeerProcess

FAKE = """
import os, sys, time
from pipelines.evaluate.peers.serving import main

class Fake:
    version = "fake 1 " + os.environ["COLOUR"]
    def __init__(self, options):
        print("loading", flush=True)
        if options.get("broken"):
            raise RuntimeError("no such model")
        self.sleep_s = options.get("sleep_s", 0)
    def reset(self):
        pass
    def complete(self, prompts, *, in_flight, max_new_tokens, eos_ids):
        print("noise between answers", flush=True)
        if len(prompts) > 5:
            raise MemoryError("too many")
        time.sleep(self.sleep_s)
        return [[in_flight, max_new_tokens, *eos_ids, *prompt] for prompt in prompts]

main(Fake)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    (tmp_path / "fake_peer.py").write_text(FAKE)
    root = process_module.ROOT
    monkeypatch.setattr(process_module, "ROOT", f"{root}:{tmp_path}")

    def started(timeout_s=60.0, **options):
        return PeerProcess(
            "fake",
            python=sys.executable,
            module="fake_peer",
            options=options,
            environment={"COLOUR": "green"},
            log=tmp_path / "logs" / "fake.log",
            timeout_s=timeout_s,
        )

    return started


def test_a_peer_answers_as_often_as_asked_whatever_it_prints(start):
    with start() as peer:
        prepare = peer.system(in_flight=3, max_new_tokens=9, eos_ids=[2])
        first, second = prepare([[7]])(), prepare([[8], [5, 6]])()
    assert peer.version == "fake 1 green"
    assert first.outputs == [[3, 9, 2, 7]]
    assert second.outputs == [[3, 9, 2, 8], [3, 9, 2, 5, 6]]


def test_the_time_is_the_one_that_the_peer_measured(start):
    with start(sleep_s=0.2) as peer:
        measured = peer.system(in_flight=1, max_new_tokens=1, eos_ids=[])([[1]])()
    assert isinstance(measured, Measured)
    assert 0.2 <= measured.seconds < 10


def test_a_peer_that_cannot_load_is_named_with_its_last_lines(start):
    with pytest.raises(OrthrusError, match=r"(?s)^fake ended; .*fake.log.*no such model"):
        start(broken=True)


def test_a_peer_that_dies_at_work_is_named_with_its_last_lines(start):
    with start() as peer, pytest.raises(OrthrusError, match=r"(?s)^fake ended; .*too many"):
        peer.system(in_flight=1, max_new_tokens=1, eos_ids=[])([[1]] * 6)()


def test_a_peer_that_does_not_answer_is_given_up(start):
    with start(sleep_s=60, timeout_s=5.0) as peer:
        work = peer.system(in_flight=1, max_new_tokens=1, eos_ids=[])([[1]])
        with pytest.raises(OrthrusError, match="fake did not answer within 5 s"):
            work()


def test_closing_ends_the_process(start):
    peer = start()
    peer.close()
    assert peer._process.returncode is not None
