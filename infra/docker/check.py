"""Run a Dockerfile's install steps without Docker: `python -m infra.docker.check --target cpu`.

The RUN pip lines of the image's package stage are run in a clean virtual environment, with the files that its
COPY lines bring; then the code that the image would hold is laid out in a directory, and the jobs are started
from it with that environment. A dependency that is missing, or a file that is not copied, shows.
Takes minutes and about 1.5 GB in a temporary directory, which is removed. Exit codes: 0 fine, 1 a step
failed.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from infra.docker.dockerfile import Dockerfile, read_dockerfile

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("Dockerfile")
PROBES = (
    "python -c 'import orthrus_core, pipelines, ray, torch, s3fs, datasets'",
    "ray --version",
    "python jobs/generate.py --help",
    "python jobs/train.py --help",
    "python jobs/generate.py --config configs/generate/demo.yaml --dry-run --set output.path=/tmp/never",
)


def main(arguments: list[str] | None = None) -> int:
    """Run the steps; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run a Dockerfile's install steps in a virtual environment.")
    parser.add_argument("--target", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--torch-index", help="instead of the file's index of torch; '' for pip's own")
    options = parser.parse_args(arguments)
    image = read_dockerfile(FILE)
    with tempfile.TemporaryDirectory(prefix="orthrus-image-") as place:
        steps = [*install_steps(image, f"packages-{options.target}", options.torch_index), *PROBES]
        lay_out(image, f"packages-{options.target}", Path(place, "build"))
        lay_out(image, options.target, Path(place, "app"))
        venv.create(Path(place, "venv"), with_pip=True)
        for number, step in enumerate(steps):
            directory = Path(place, "app" if number >= len(steps) - len(PROBES) else "build")
            if run(step, directory, Path(place)) != 0:
                print(f"failed: {step}", file=sys.stderr)
                return 1
    print(f"{len(steps)} steps of target {options.target} went well")
    return 0


def install_steps(image: Dockerfile, stage: str, torch_index: str | None) -> list[str]:
    """The pip commands of a stage and those below it, arguments filled in.

    Args:
        torch_index: replaces the default of TORCH_INDEX_*; empty: the option --index-url is left out.
    """
    steps, values = [], dict(image.arguments)
    for instruction in image.instructions(stage):
        if instruction.name == "ARG":
            name, _, value = instruction.text.partition("=")
            given = torch_index is not None and name.startswith("TORCH_INDEX")
            values[name] = (torch_index or "") if given else value
        if instruction.name == "RUN" and instruction.text.startswith("pip "):
            text = instruction.text
            for name, value in values.items():
                text = text.replace(f"${{{name}}}", value)
            steps.append(text.replace("--index-url  ", ""))
    return steps


def lay_out(image: Dockerfile, target: str, place: Path) -> None:
    """Copy what an image's COPY lines take from the build context, below `place` instead of its WORKDIR."""
    for inside, source in image.copied(target).items():
        to = place / Path(inside).relative_to("/" + Path(inside).parts[1])
        to.parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, to, ignore=ignored)
        else:
            shutil.copy2(ROOT / source, to)


def run(step: str, directory: Path, place: Path) -> int:
    """Run one command with the environment's programs first on the path; returns its exit code."""
    print(f"+ {step}", flush=True)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "VIRTUAL_ENV")},
        "PATH": f"{place / 'venv/bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(place / "app"),
        "ORTHRUS_CACHE": str(place / "cache"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    return subprocess.run(shlex.split(step), cwd=directory, env=environment, stdout=sys.stdout).returncode


if __name__ == "__main__":
    sys.exit(main())
