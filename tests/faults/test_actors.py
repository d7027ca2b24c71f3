"""Actors that die, and engines that raise, hang or give NaN."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from orthrus_core.errors import OrthrusError
from orthrus_core.models.loading import load_model
from pipelines.checkpoint.directory import load_tokenizer
from tests.faults.engines import Stub
from tests.faults.runs import Outcome, texts_of
from tests.pipelines.conftest import TOKENIZER_FILES, generate_tree, run_tree
from tests.processes import kill
from tests.small_models import small_orthrus

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(400)]


def test_a_killed_actor_is_replaced_and_its_units_done_again(
    few_tree, few_texts, tmp_path, new_driver, table
):
    marks = tmp_path / "marks"
    driver = new_driver(few_tree, Stub(str(marks), step_s=0.05)).start()
    assert driver.wait_until(lambda: len(driver.committed()) >= 3)
    [actor] = driver.actors(marks)
    assert kill(actor)
    assert driver.wait() == 0, driver.log[-3000:]
    table.assert_whole("SIGKILL of a generate actor, once", driver.output, few_texts, faults=1)
    assert len(list(marks.iterdir())) == 2


def test_an_actor_killed_again_and_again_ends_the_run_clearly_and_a_resume_finishes_it(
    few_tree, few_texts, tmp_path, new_driver, table
):
    marks = tmp_path / "marks"
    few_tree["run"]["retries"] = 1
    driver = new_driver(few_tree, Stub(str(marks), step_s=0.05)).start()
    assert driver.wait_until(lambda: len(driver.committed()) >= 2)
    killed: set[int] = set()

    def kill_new_ones() -> bool:
        for actor in set(driver.actors(marks)) - killed:
            kill(actor)
            killed.add(actor)
        return False

    driver.wait_until(kill_new_ones)
    assert driver.wait() == 1
    last = driver.log.strip().split("\n")[-1]
    assert last.startswith("failed: actors died 2 times without finishing a unit: killed from outside")
    assert not Path(driver.output, "_run/_SUCCESS").exists()
    driver.start()
    assert driver.wait() == 0, driver.log[-3000:]
    scenario = "SIGKILL of every generate actor, then a resume"
    table.assert_whole(scenario, driver.output, few_texts, faults=len(killed), runs=2, said=last[:110])


@pytest.mark.parametrize("fault", ["raise", "hang"])
def test_an_engine_that_breaks_once_is_replaced(stub_ray, few_tree, few_texts, tmp_path, table, fault):
    few_tree["run"]["step_timeout_s"] = 3.0
    run_tree(few_tree, Stub(str(tmp_path / "marks"), step_s=0.01, fault=fault, faults=1))
    output = few_tree["output"]["path"]
    table.assert_whole(f"an engine's step {fault}s, once", output, few_texts, faults=1)
    [note] = Path(output, "_run/failures").rglob("*-engine.txt")
    assert {"raise": "device-side assert", "hang": "in _break"}[fault] in note.read_text()


def test_engines_that_all_hang_end_the_run_clearly_and_a_resume_finishes_it(
    stub_ray, few_tree, few_texts, tmp_path, table
):
    few_tree["run"] |= {"step_timeout_s": 1.0, "retries": 1}
    hanging = Stub(str(tmp_path / "marks"), step_s=0.01, fault="hang", fault_step=1, faults=99)
    with pytest.raises(
        OrthrusError, match=r"actors died 2 times .*the engine hangs: a step took more"
    ) as caught:
        run_tree(few_tree, hanging)
    run_tree(few_tree, Stub(str(tmp_path / "sound"), step_s=0.0))
    output, said = few_tree["output"]["path"], str(caught.value)[:110]
    table.assert_whole("every engine hangs, then a resume", output, few_texts, faults=2, runs=2, said=said)


@pytest.fixture(scope="module")
def sound_prompts(tmp_path_factory) -> Path:
    """Forty prompts; the token of "!" is in the 18th alone."""
    path = tmp_path_factory.mktemp("nan") / "p.parquet"
    texts = [f"Add {n} and {2 * n}{'!' if n == 17 else '.'}" for n in range(40)]
    pq.write_table(_table(texts), path)
    return path


def _table(texts: list[str]) -> pa.Table:
    return pa.table({"id": [f"row-{n}" for n in range(len(texts))], "prompt": texts})


def _poisoned(model_dir: Path, path: Path, poison) -> Path:
    """A copy of a model after `poison(model)`."""
    model = load_model(model_dir)
    with torch.no_grad():
        poison(model)
    model.save_pretrained(path)
    for name in TOKENIZER_FILES:
        shutil.copy(model_dir / name, path)
    return path


def test_a_row_whose_logits_are_nan_is_an_error_row_and_the_others_are_untouched(
    stub_ray, model_dir, sound_prompts, tmp_path, table
):
    token = load_tokenizer(str(model_dir)).encode("!", add_special_tokens=False)[0]

    def poison(model) -> None:
        model.model.embed_tokens.weight[token] = float("nan")

    untied = tmp_path / "untied"  # the input embedding alone, not the output's column of the token
    shutil.copytree(model_dir, untied)
    small_orthrus(vocab_size=1024, mask_token_id=3, eos_token_id=2, sameness=0.2, tied=False).save_pretrained(
        untied
    )
    outputs = []
    for name, model in (("sound", untied), ("nan", _poisoned(untied, tmp_path / "model", poison))):
        job, _ = run_tree(generate_tree(model, sound_prompts, tmp_path / name, unit_rows=8))
        outputs.append(texts_of(job.ledger.url))
    (_, sound), (keys, poisoned) = outputs
    hit = {key for key, (text, _) in sound.items() if "!" in text} | {("row-17", 0)}
    differing = {key for key in sound if sound[key] != poisoned[key]}
    error = poisoned[("row-17", 0)][1]
    table.add(
        "an engine gives NaN for one row",
        Outcome(len(sound), len(keys), len(keys) - len(set(keys)), len(differing - hit)),
        faults=1,
        said=f"done, error rows: {error}"[:110],
    )
    assert ("row-17", 0) in differing <= hit
    assert all("NaN or infinite" in poisoned[key][1] for key in differing)
    assert len(hit) < 10
    assert len(keys) == 40


def test_an_engine_that_gives_nan_for_all_ends_the_run_with_the_reason(
    stub_ray, model_dir, sound_prompts, tmp_path, table
):
    def poison(model) -> None:
        model.model.embed_tokens.weight[:] = float("nan")

    tree = generate_tree(
        _poisoned(model_dir, tmp_path / "model", poison), sound_prompts, tmp_path / "out", unit_rows=8
    )
    tree["run"]["retries"] = 1
    with pytest.raises(OrthrusError, match="NaN") as caught:
        run_tree(tree)
    assert not (tmp_path / "out/_run/_SUCCESS").exists()
    assert not list((tmp_path / "out").glob("data/part-*"))
    table.add("an engine gives NaN for all rows", faults=1, said=str(caught.value)[:110])
