"""What the driver warns of."""

from pipelines.generate.watch.warnings import RunWarnings


class Notes:
    def __init__(self, reason):
        self.reason = reason

    def last_reason(self):
        if isinstance(self.reason, Exception):
            raise self.reason
        return self.reason


def unit(actor, alarm=False):
    return {"actor": actor, "engine": {"drafter_alarm": alarm}}


def test_the_drafter_alarm_is_said_once(caplog):
    warnings = RunWarnings(Notes(None), 2)
    for actor in ("a", "b", "a"):
        warnings.look(unit(actor, alarm=True))
    assert len(caplog.records) == 1
    assert "drafts hardly ever stand" in caplog.text


def test_an_actor_in_the_place_of_a_dead_one_is_told_with_the_reason(caplog):
    warnings = RunWarnings(Notes("RuntimeError: device-side assert"), 1)
    for actor in ("a", "a", "b", "b"):
        warnings.look(unit(actor))
    [record] = caplog.records
    assert record.message == "an actor died, b goes on in its place: RuntimeError: device-side assert"


def test_a_death_without_a_note_came_from_outside(caplog):
    for reason in (None, OSError("no storage")):
        warnings = RunWarnings(Notes(reason), 0)
        warnings.look(unit("a"))
    assert caplog.text.count("killed from outside") == 2
