"""The first signal asks, the second stops."""

import contextlib
import signal
import subprocess
import sys

import pytest

from pipelines.command import signals
from pipelines.command.signals import Interrupted, StopSignals


@pytest.fixture
def stop(monkeypatch):
    """Handlers that take two signals in a moment for two."""
    monkeypatch.setattr(signals, "ECHO_S", 0.0)
    with StopSignals() as stop:
        yield stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_raises_where_the_job_is(stop, number):
    with pytest.raises(Interrupted, match=f"stopped by {number.name}"):
        signal.raise_signal(number)


def test_a_signal_that_a_library_swallowed_is_raised_again_where_the_run_begins(stop):
    with contextlib.suppress(BaseException):  # as imports of some libraries do
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="while the job was starting"), stop.deferred():
        pass


def test_within_deferred_the_first_signal_only_asks_and_the_second_raises(stop):
    with stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested.is_set()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_an_interruption_is_no_exception_that_code_on_the_way_could_handle():
    assert not issubclass(Interrupted, Exception)


def test_a_signal_sent_to_a_process_and_then_to_its_group_counts_once():
    with StopSignals() as stop, stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested.is_set()


def test_handlers_that_were_there_are_put_back_even_if_others_came_in_between():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with StopSignals() as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.install_again()
        with stop.deferred():
            signal.raise_signal(signal.SIGTERM)
        assert stop.requested.is_set()
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_outside_of_with_no_handler_is_put():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    StopSignals().install_again()
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_one_signal_more_than_two_ends_the_process_whatever_hangs():
    program = """
import signal
from pipelines.command import signals
signals.ECHO_S = 0.0
with signals.StopSignals() as stop, stop.deferred():
    signal.raise_signal(signal.SIGTERM)
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        signal.raise_signal(signal.SIGTERM)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == signals.INTERRUPTED == 3


def test_the_abort_that_a_librarys_handler_has_planned_does_not_come_while_the_job_cleans_up():
    program = """
import contextlib, signal
from pipelines.command.signals import Interrupted, StopSignals
with StopSignals(), contextlib.suppress(Interrupted):
    signal.alarm(30)
    signal.raise_signal(signal.SIGTERM)
raise SystemExit(signal.alarm(0))
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
