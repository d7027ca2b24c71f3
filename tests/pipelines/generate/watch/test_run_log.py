"""The driver's log in the output: what is in it, what is not, and that it costs no run."""

import logging
import re

import fsspec
import pytest

from orthrus_core.errors import ConfigError
from pipelines.generate.watch import run_log
from pipelines.generate.watch.run_log import RunLog
from pipelines.storage.errors import StorageError
from tests.processes import wait_until

logger = logging.getLogger("a.module")


@pytest.fixture(autouse=True)
def _level(caplog):
    caplog.set_level(logging.INFO)


def stored(directory) -> list[str]:
    [file] = (directory / "logs").iterdir()
    assert re.fullmatch(r"driver-\d{4}-\d\d-\d\dT\d{6}Z-\d+\.log", file.name)
    return file.read_text().splitlines()


def test_what_was_logged_before_the_output_was_known_is_in_it_too(tmp_path):
    with RunLog() as log:
        logger.info("planned %d units", 3)
        with log.kept(str(tmp_path)):
            logger.warning("slow")
    first, second, third = stored(tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO planned 3 units", first)
    assert "INFO driver host=" in second
    assert third.endswith("WARNING slow")


def test_a_log_that_nothing_keeps_is_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunLog():
        logger.info("a dry run")
    assert list(tmp_path.iterdir()) == []


def test_of_a_long_log_the_beginning_and_the_end_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "FIRST_CHARS", 1000)
    monkeypatch.setattr(run_log, "LAST_CHARS", 3000)
    with RunLog().kept(str(tmp_path)):
        for number in range(1000):
            logger.info("number %d", number)
    lines = stored(tmp_path)
    numbers = [int(line.rpartition(" ")[2]) for line in lines if "number" in line]
    [left_out] = [int(line.split()[1]) for line in lines if line.startswith("... ")]
    assert (numbers[0], numbers[-1], len(numbers) + left_out) == (0, 999, 1000)
    assert 3500 < sum(len(line) + 1 for line in lines) < 4100


def test_a_record_of_any_length_is_cut(tmp_path):
    with RunLog().kept(str(tmp_path)):
        logger.info("x" * 10**6)
    assert len(stored(tmp_path)[-1]) == run_log.LONGEST


def test_the_error_that_ended_a_run_is_the_last_line(tmp_path):
    with pytest.raises(ConfigError), RunLog().kept(str(tmp_path)):
        raise ConfigError("no GPU")
    assert stored(tmp_path)[-1].endswith("ERROR ConfigError: no GPU")


def test_an_error_that_nobody_foresaw_has_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLog().kept(str(tmp_path)):
        1 / 0  # noqa: B018
    lines = stored(tmp_path)
    assert "Traceback (most recent call last):" in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_credentials_are_blotted_out(tmp_path, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", {"secret": "very-secret-value"})
    with RunLog().kept(str(tmp_path)):
        logger.info("refused: very-secret-value")
    assert stored(tmp_path)[-1].endswith("refused: **********")


def test_a_log_is_stored_while_the_run_goes_on(tmp_path):
    with RunLog(store_s=0.01).kept(str(tmp_path)):
        logger.info("begun")
        wait_until(lambda: any("begun" in log.read_text() for log in tmp_path.glob("logs/driver-*")), 30)


def test_storage_that_refuses_the_log_costs_a_warning_and_no_run(tmp_path, monkeypatch, caplog):
    def refuse(url, data):
        raise StorageError(f"{url}: AccessDenied")

    monkeypatch.setattr(run_log, "put", refuse)
    with RunLog().kept(str(tmp_path)):
        pass
    assert "log not stored" in caplog.text
    assert "AccessDenied" in caplog.text


def test_the_latest_logs_of_a_job_that_starts_again_and_again_stay(tmp_path):
    (tmp_path / "logs").mkdir()
    for day in range(10, 31):
        (tmp_path / f"logs/driver-2020-01-{day}T000000Z-1.log").write_text("old")
    with RunLog().kept(str(tmp_path)):
        pass
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert len(names) == run_log.MOST_FILES
    assert names[0] == "driver-2020-01-12T000000Z-1.log"
    assert names[-1] > "driver-2026"


def test_the_handler_is_gone_afterwards(tmp_path):
    before = list(logging.getLogger().handlers)
    with RunLog() as log, log.kept(str(tmp_path)):
        assert log in logging.getLogger().handlers
    assert logging.getLogger().handlers == before
