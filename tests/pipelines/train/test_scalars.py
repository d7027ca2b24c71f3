import uuid

import fsspec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipelines.storage.listing import list_tree
from pipelines.train.scalars import Scalars


def read(path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(path), purge_orphaned_data=True)
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_scalars_can_be_read_while_the_run_goes_on(tmp_path):
    scalars = Scalars(str(tmp_path), first_step=1)
    scalars.add("train", 1, {"loss": 2.5, "lr": 0.5})
    scalars.add("held_out", 1, {"acceptance_length": 3.0})
    scalars.copy()
    assert read(tmp_path / "tensorboard") == {
        "train/loss": [(1, 2.5)],
        "train/lr": [(1, 0.5)],
        "held_out/acceptance_length": [(1, 3.0)],
    }
    scalars.close()


def test_figures_behind_the_checkpoint_of_a_resumed_run_are_void(tmp_path):
    first = Scalars(str(tmp_path), first_step=1)
    for step in (1, 2, 3):
        first.add("train", step, {"loss": float(step)})
    first.close()
    second = Scalars(str(tmp_path), first_step=3)
    second.add("train", 3, {"loss": 9.0})
    second.close()
    assert read(tmp_path / "tensorboard")["train/loss"] == [(1, 1.0), (2, 2.0), (3, 9.0)]


def test_a_store_gets_the_events_at_every_copy(tmp_path):
    url = f"memory://{uuid.uuid4().hex}"
    scalars = Scalars(url, first_step=1)
    scalars.add("train", 1, {"loss": 2.5})
    scalars.copy()
    scalars.add("train", 2, {"loss": 1.5})
    scalars.close()
    (file,) = list_tree(url)
    fsspec.filesystem("memory").get(file.url, str(tmp_path / file.url.rsplit("/", 1)[-1]))
    assert read(tmp_path) == {"train/loss": [(1, 2.5), (2, 1.5)]}
