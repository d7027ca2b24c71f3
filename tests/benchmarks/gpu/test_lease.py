import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.benchmarks.gpu import lease
from tests.benchmarks.gpu.lease import FAILED, SKIPPED, TIMED_OUT, Part, main, run_part


def result_of(tmp_path, code: str, limit_s: float = 60, **options) -> str:
    part = Part("one", 60, 60, ("-c", code), **options)
    return run_part(part, limit_s, tmp_path / "one", ()).result


def test_the_limits_of_all_parts_leave_room_for_their_starts():
    assert sum(part.limit_s for part in lease.PARTS) <= 540
    assert sum(part.quick_s for part in lease.PARTS) <= 180


def test_a_part_that_ends_well_has_passed_and_its_output_is_kept(tmp_path):
    assert result_of(tmp_path, "print('seen')") == "passed"
    assert (tmp_path / "one" / "output.txt").read_text() == "seen\n"


def test_a_part_that_breaks_is_told_by_its_exit_code(tmp_path):
    assert result_of(tmp_path, "raise SystemExit(3)") == f"{FAILED}, exit code 3"


def test_a_part_that_hangs_ends_at_its_limit_with_all_that_it_started(tmp_path):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert result_of(tmp_path, child, limit_s=1) == TIMED_OUT


def test_a_part_has_its_own_environment(tmp_path):
    code = "import os; assert os.environ['CUBLASLT_WORKSPACE_SIZE'] == '1'"
    assert result_of(tmp_path, code, environment=lease.WORKSPACE) == "passed"


def test_a_part_whose_module_is_not_there_is_left_out(tmp_path):
    assert result_of(tmp_path, "", needs="no_such_module") == SKIPPED


def test_parts_that_fail_leave_a_table_and_an_exit_code(tmp_path, monkeypatch, capsys):
    parts = (Part("good", 60, 0, ("-c", "")), Part("bad", 60, 60, ("-c", "raise SystemExit(1)")))
    monkeypatch.setattr(lease, "PARTS", parts)
    assert main(["--out", str(tmp_path)]) == 1
    assert [one["part"] for one in json.loads((tmp_path / "lease.json").read_text())] == ["good", "bad"]
    assert re.search(r"\| good \| \d+ \| passed \|", capsys.readouterr().out)
    assert main(["--out", str(tmp_path), "--only", "good"]) == 0


def test_all_results_so_far_are_in_one_archive_after_every_part(tmp_path, monkeypatch):
    archive = tmp_path / "bench.tgz"
    look = f"import tarfile; assert 'bench/lease.md' in tarfile.open({str(archive)!r}).getnames()"
    parts = (Part("first", 60, 60, ("-c", "")), Part("second", 60, 60, ("-c", look)))
    monkeypatch.setattr(lease, "PARTS", parts)
    assert main(["--out", str(tmp_path / "bench"), "--pack", str(archive)]) == 0
    with tarfile.open(archive) as packed:
        assert {"bench/second/output.txt", "bench/lease.json"} <= set(packed.getnames())


def test_all_tests_that_need_a_device_run():
    root = Path("tests/orthrus_core")
    needing = [path for path in root.rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()]
    assert sorted(str(path.relative_to(root)) for path in needing) == list(lease.TESTS)


def test_a_part_that_is_interrupted_says_where_it_was(tmp_path):
    assert result_of(tmp_path, "import time; time.sleep(60)", limit_s=1) == TIMED_OUT
    assert "KeyboardInterrupt" in (tmp_path / "one/output.txt").read_text()


def test_an_unknown_part_is_a_mistake():
    command = [sys.executable, "-m", "tests.benchmarks.gpu.lease", "--only", "speed"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no part speed; there are versions, tests, products" in done.stderr
