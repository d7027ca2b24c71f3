"""What each part of the head's recipe brings: short trainings that differ in one thing, side by side.

    python -m tests.benchmarks.ablations                       # 9 trainings of 800,000 tokens
    python -m tests.benchmarks.ablations --only base cross-entropy    # some of them
    python -m tests.benchmarks.ablations --list                # their commands, nothing run

Every row of the table is a plain train job, whose command is printed with it. All have the same seed, data,
token budget and held-out rows; the model's own text must be there (see docs/training.md). Trainings run two
at a time, each with one thread.
"""

import argparse
import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = "configs/train/demo-head.yaml"
GIVEN_TEXT = Path("build/demo-given-text")


@dataclass(frozen=True)
class Ablation:
    """One training: what differs from the base, as values over its config."""

    name: str
    what: str
    overrides: tuple[str, ...]

    def command(self, options: argparse.Namespace) -> list[str]:
        """The train job, as a user would call it."""
        values = [
            f"output.path={options.directory / self.name}",
            "output.overwrite=true",
            "scaling.workers=0",
            f"loop.max_tokens={options.tokens}",
            *options.set,
            *self.overrides,
        ]
        flags = [word for value in values for word in ("--set", value)]
        return [sys.executable, "jobs/train.py", "--config", CONFIG, *flags]


ABLATIONS = (
    Ablation("base", "forward KL, own text, Muon, full blocks, init from the AR view", ()),
    Ablation("cross-entropy", "cross-entropy against the text", ("head.loss=cross_entropy",)),
    Ablation("given-text", "given text instead of the model's own", (f"data.path={GIVEN_TEXT}",)),
    Ablation("short-blocks", "half of the blocks shortened at random", ("head.shorten_probability=0.5",)),
    Ablation("adamw-4e-3", "AdamW, rate 4e-3", ("optimizer.kind=adamw", "optimizer.adamw_lr=4.0e-3")),
    Ablation("adamw-1e-3", "AdamW, rate 1e-3", ("optimizer.kind=adamw", "optimizer.adamw_lr=1.0e-3")),
    Ablation("random-init", "head from random weights", ("head.init=random",)),
    Ablation("no-slot-weights", "all slots weigh the same", ("head.slot_decay=1.0",)),
    Ablation("block-16", "blocks of 16, 16 anchors", ("head.block_size=16", "head.anchors_per_sequence=16")),
)


def main() -> int:
    """Run the trainings and print the table."""
    options = _options()
    chosen = [one for one in ABLATIONS if not options.only or one.name in options.only]
    if options.list:
        for one in chosen:
            print(_shown(one, options))
        return 0
    if any(str(GIVEN_TEXT) in value for one in chosen for value in one.overrides):
        _write_given_text()
    with ThreadPoolExecutor(options.at_once) as pool:
        figures = list(pool.map(lambda one: _train(one, options), chosen))
    print(_table(chosen, figures, options))
    return 0


def _train(one: Ablation, options: argparse.Namespace) -> dict[str, float]:
    """Train, log to a file, and return the last held-out figures."""
    options.directory.mkdir(parents=True, exist_ok=True)
    log = options.directory / f"{one.name}.log"
    with log.open("w") as out:
        code = subprocess.run(one.command(options), cwd=ROOT, stdout=out, stderr=subprocess.STDOUT).returncode
    if code:
        raise SystemExit(f"{one.name} failed with exit code {code}, see {log}")
    state = json.loads((ROOT / options.directory / one.name / "training.json").read_text())
    figures = dict(state["history"][-1]) | {"seconds": state["seconds"]}
    print(f"{one.name}: {figures}", flush=True)
    return figures


def _write_given_text() -> None:
    if not (ROOT / GIVEN_TEXT).is_dir():
        subprocess.run(
            [sys.executable, "-m", "pipelines.demo", "given-text", GIVEN_TEXT], cwd=ROOT, check=True
        )


def _table(chosen: list[Ablation], figures: list[dict[str, float]], options: argparse.Namespace) -> str:
    """Markdown: figures, then the commands."""
    lines = [
        "| run | what differs | length at 4 | length at 8 | length at K | loss | seconds |",
        "|" + "---|" * 7,
    ]
    for one, found in zip(chosen, figures, strict=True):
        at = [found.get(f"acceptance_length_at_{k}") for k in (4, 8)]
        cells = ["-" if value is None else f"{value:.2f}" for value in (*at, found["acceptance_length"])]
        cells += [f"{found['loss']:.4f}", f"{found['seconds']:.0f}"]
        lines.append(f"| {one.name} | {one.what} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(_shown(one, options) for one in chosen)])


def _shown(one: Ablation, options: argparse.Namespace) -> str:
    """The command as a user types it."""
    return shlex.join([".venv/bin/python", *one.command(options)[1:]])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ablations", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", nargs="+", choices=[one.name for one in ABLATIONS], help="these alone")
    parser.add_argument("--tokens", type=int, default=800_000, help="document tokens of each training")
    parser.add_argument("--at-once", type=int, default=2, help="trainings side by side, one thread each")
    parser.add_argument(
        "--directory", type=Path, default=Path("build/ablations"), help="where models and logs go"
    )
    parser.add_argument("--set", action="append", default=[], help="a value over every config")
    parser.add_argument("--list", action="store_true", help="print the commands, run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
