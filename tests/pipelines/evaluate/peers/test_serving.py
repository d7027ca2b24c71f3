import io
import json
import subprocess
import sys
import time
from pathlib import Path

from pipelines.evaluate.peers.serving import serve

ROOT = Path(__file__).parents[4]
REQUEST = {"prompts": [[1, 2], [3]], "in_flight": 2, "max_new_tokens": 4, "eos_ids": [0]}


class EchoPeer:
    """Emits the prompt backwards; writes down what it is told."""

    version = "1.2"

    def __init__(self, options):
        self.calls = options["calls"]

    def reset(self):
        self.calls.append("reset")

    def complete(self, prompts, **limits):
        self.calls.append(limits)
        time.sleep(0.05)
        return [prompt[::-1] for prompt in prompts]


def answers_to(*requests):
    calls, answers = [], io.StringIO()
    serve(EchoPeer, {"calls": calls}, [json.dumps(request) for request in requests], answers)
    return calls, [json.loads(line) for line in answers.getvalue().splitlines()]


def test_the_first_line_says_what_was_loaded():
    _, [ready] = answers_to()
    assert ready["version"] == "1.2"


def test_an_answer_holds_outputs_and_the_seconds_of_the_work():
    _, [_, answer] = answers_to(REQUEST)
    assert answer["outputs"] == [[2, 1], [3]]
    assert 0.05 <= answer["seconds"] < 5


def test_earlier_prompts_are_forgotten_before_each_request():
    calls, _ = answers_to(REQUEST, REQUEST)
    limits = {"in_flight": 2, "max_new_tokens": 4, "eos_ids": [0]}
    assert calls == ["reset", limits, "reset", limits]


def test_the_servers_need_nothing_but_the_standard_library_to_start():
    code = (
        "import sys\nimport pipelines.evaluate.peers.vllm_server, pipelines.evaluate.peers.authors_server\n"
        "print(sorted(name for name in ('torch', 'pydantic', 'ray', 'numpy') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
