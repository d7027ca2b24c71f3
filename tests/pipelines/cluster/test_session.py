"""Ray's start and end beside the driver's other work."""

import contextlib

import pytest

from orthrus_core.errors import ConfigError
from pipelines.cluster import session as ray_session
from pipelines.cluster.config import RunConfig
from pipelines.cluster.session import RaySession


class FakeRay:
    """What a session does with Ray."""

    def __init__(self, monkeypatch, fault=None):
        self.calls: list[str] = []
        self._fault = fault
        monkeypatch.setattr("ray.is_initialized", lambda: False)
        monkeypatch.setattr("ray.shutdown", lambda: self.calls.append("shutdown"))
        monkeypatch.setattr(ray_session, "start_cluster", self.start)

    def start(self, run) -> bool:
        self.calls.append("start")
        if self._fault is not None:
            raise self._fault
        return True


def test_a_session_that_was_begun_starts_ray_once_and_ends_it_once(monkeypatch):
    ray = FakeRay(monkeypatch)
    session = RaySession(RunConfig())
    with contextlib.closing(session):
        session.begin()
        with session as is_local:
            assert is_local
    session.close()
    assert ray.calls == ["start", "shutdown"]


def test_a_session_that_was_begun_and_is_not_needed_is_ended(monkeypatch):
    ray = FakeRay(monkeypatch)
    session = RaySession(RunConfig())
    session.begin()
    session.close()
    assert ray.calls == ["start", "shutdown"]


def test_a_session_that_was_never_begun_starts_nothing(monkeypatch):
    ray = FakeRay(monkeypatch)
    RaySession(RunConfig()).close()
    assert ray.calls == []


def test_what_the_start_raises_is_raised_where_ray_is_wanted(monkeypatch):
    FakeRay(monkeypatch, ConfigError("run.ray_address nowhere: no answer"))
    session = RaySession(RunConfig())
    session.begin()
    with contextlib.closing(session), pytest.raises(ConfigError, match="no answer"), session:
        pass


@pytest.mark.ray
def test_a_ray_that_is_there_already_stays(local_ray):
    import ray

    with contextlib.closing(RaySession(RunConfig())) as session, session as is_local:
        assert is_local
    assert ray.is_initialized()
