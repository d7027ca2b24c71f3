"""Runs whose engines are two processes each."""

import io
import os
import threading
import time
from pathlib import Path

import pytest

from orthrus_core import ConfigError
from pipelines.generate.job.preview import preview
from pipelines.generate.report.terminal import render_plan
from tests.faults.runs import texts_of
from tests.pipelines.conftest import generate_tree, job_of, run_tree
from tests.processes import descendants, kill

RANK = b"pipelines.generate.engine.ranks"


def two_ranks(tree: dict) -> dict:
    tree["model"]["tensor_parallel"] = 2
    return tree


def ranks_below(pid: int) -> list[int]:
    """Processes that are ranks other than 0."""
    found = []
    for one, _ in descendants(pid):
        try:
            if RANK in Path(f"/proc/{one}/cmdline").read_bytes():
                found.append(one)
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_loses_a_rank_ends_with_the_text_of_a_run_of_whole_models(
    local_ray, model_dir, prompts_dir, tmp_path
):
    tree = generate_tree(model_dir, prompts_dir, tmp_path / "whole", unit_rows=4)
    tree["decode"] |= {"max_sequences": 2, "token_budget": 16, "budgets": [8, 16]}
    tree["sampling"]["max_new_tokens"] = 96
    whole, _ = run_tree(tree)
    tree = two_ranks(tree | {"output": {"path": str(tmp_path / "out")}})
    data, killed = tmp_path / "out/data", []

    def kill_one() -> None:
        deadline = time.monotonic() + 500
        while not list(data.glob("part-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.extend(one for one in ranks_below(os.getpid()) if kill(one))

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    job, report = run_tree(tree)
    killer.join()
    assert len(killed) == 1
    [note] = Path(job.ledger.run_url, "failures").rglob("*-engine.txt")
    assert "rank 0 of 2 has lost another rank" in note.read_text()
    assert (report["status"], report["exactness"]) == ("done", "exact")
    assert report["audit"]["identical"] == report["audit"]["compared"] > 0
    assert texts_of(job.ledger.url)[1] == texts_of(whole.ledger.url)[1]
    assert ranks_below(os.getpid()) == []


def test_a_dry_run_shows_the_memory_of_each_rank(tree):
    from rich.console import Console

    def shown(tree) -> str:
        job = job_of(tree)
        console = Console(width=250, file=io.StringIO())
        console.print(render_plan(job, preview(job)))
        return console.file.getvalue()

    whole, halved = shown(tree), shown(two_ranks(tree))
    assert "memory of an actor" in whole
    assert "memory of each of 2 ranks" in halved
    weights = [int(text.split("weights ")[1].split(" kB")[0].split(".")[0]) for text in (whole, halved)]
    assert weights[1] < 0.6 * weights[0]


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("model", {"tensor_parallel": 3}, "choose of 1, 2, got 3"),
        ("model", {"tensor_parallel": 2, "lora": "/nowhere"}, "model.lora"),
        ("model", {"tensor_parallel": 2, "weights": "int8"}, "model.weights: int8 does not go with"),
    ],
)
def test_what_ranks_cannot_share_is_refused_before_anything_starts(tree, section, values, said):
    tree[section] |= values
    with pytest.raises(ConfigError, match=said):
        job_of(tree)
