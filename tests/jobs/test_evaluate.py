import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_mistake_is_one_line_and_exit_code_2():
    command = [sys.executable, "jobs/evaluate.py", "--config", "configs/evaluate/demo.yaml"]
    done = subprocess.run(
        [*command, "--set", "speed.rounds=0"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "config error: speed.rounds must be >= 1, got 0"
    assert "Traceback" not in done.stderr
