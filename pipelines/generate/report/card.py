"""README.md of the output: tells `datasets` which files are data, and people what they hold."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from pipelines.command.wording import count_of
from pipelines.generate.report.terminal import audit_line
from pipelines.read.columns import IDENTITY, OPTIONAL, RESULT

if TYPE_CHECKING:
    from pipelines.generate.job.job import Job

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MORE = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))
CODE = {
    "datasets": 'import datasets\n\nrows = datasets.load_dataset("{url}", split="train")',
    "pandas": 'import pandas\n\nrows = pandas.read_parquet("{url}/data")',
    "pyarrow": 'import pyarrow.dataset\n\nrows = pyarrow.dataset.dataset("{url}/data").to_table()',
}
EXACTNESS = {
    "exact": "The text is what plain autoregressive decoding of the same model writes, checked bit for bit "
    "when the engine started.",
    "distribution": "Drawn with a rejection rule: as likely as in plain AR decoding, not its text.",
    "unverified": "Meant to be the text of plain autoregressive decoding; this machine could not prove it.",
}


def data_card(job: "Job", report: Mapping[str, Any]) -> str:
    """Return the card, a Hugging Face data set card.

    Args:
        report: as `figures.run_report` makes it.
    """
    parts = (
        _header(report),
        _summary(job, report),
        _figures(report),
        _loading(),
        _columns(job),
        _options(job),
        _origin(job, report),
    )
    return "\n\n".join(parts) + "\n"


def _header(report: Mapping[str, Any]) -> str:
    size = next((name for limit, name in (*SIZES, *MORE) if report["rows"] < limit), "n>1B")
    tree = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["synthetic"],
    }
    return f"---\n{yaml.safe_dump(tree, sort_keys=False)}---"


def _summary(job: "Job", report: Mapping[str, Any]) -> str:
    level, revision = report["exactness"], job.checkpoint.revision or "none (a directory)"
    return (
        f"# Completions of {_code(job.config.model.path)}\n\n"
        f"{report['rows']:,} rows: prompts of {count_of(report['inputs']['files'], 'input file')} and the "
        f"completions that the model wrote to them. {EXACTNESS.get(level, '')}\n\n"
        f"Model: {_code(job.config.model.path)}, revision {_code(revision)}, "
        f"hash {_code(job.checkpoint.model_hash)}{_changes(job)}; "
        f"tokenizer hash {_code(job.checkpoint.tokenizer_hash)}."
    )


def _changes(job: "Job") -> str:
    model, adapter, changes = job.config.model, job.adapter, ""
    if model.lora and adapter:
        changes = f", with the LoRA adapter {_code(model.lora)}, hash {_code(adapter.model_hash)}"
    return changes if model.weights == "auto" else f"{changes}, weights in {model.weights}"


def _figures(report: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{name} {count:,}" for name, count in report["finish_reasons"].items())
    lines = [
        ("rows", f"{report['rows']:,}"),
        ("of them errors (completion is null)", f"{report['errors']:,}"),
        ("finish reasons", reasons),
        ("prompt tokens", f"{report['prompt_tokens']:,}"),
        ("completion tokens", f"{report['completion_tokens']:,}"),
        ("exactness", report["exactness"] or "-"),
        ("audit", audit_line(report["audit"])),
    ]
    lines += [(name, f"{report[name]:,}") for name in ("dropped", "deduplicated") if report.get(name)]
    if report["status"] != "done":
        lines.insert(0, ("status", f"**{report['status']}**: {report['reason']}"))
    return "## Figures\n\n" + _table(("figure", "value"), lines)


def _loading() -> str:
    """How to open the data where this card lies."""
    blocks = [f"```python\n{code.format(url='.')}\n```" for code in CODE.values()]
    return "## Loading\n\n`.` is the directory of this card.\n\n" + "\n\n".join(blocks)


def _columns(job: "Job") -> str:
    described = {column.name: column.meaning for column in (*IDENTITY, *RESULT, *OPTIONAL)}
    layout = job.layout
    lines = [
        (written, str(layout.output.field(name).type), described.get(name, "carried from the input"))
        for name, written in layout.file_names.items()
    ]
    return "## Columns\n\n" + _table(("column", "type", "meaning"), lines)


def _options(job: "Job") -> str:
    config = job.config
    lines = [
        (f"{name}.{key}", _code(json.dumps(value, ensure_ascii=False)))
        for name, section in (
            ("input.prompt", config.input.prompt),
            ("decode", config.decode),
            ("sampling", config.sampling),
        )
        for key, value in section.model_dump(mode="json").items()
        if value not in (None, {}) and not isinstance(value, dict)
    ]
    return "## Options\n\n" + _table(("option", "value"), lines)


def _origin(job: "Job", report: Mapping[str, Any]) -> str:
    engine = report["engine"] or {}
    kernels = ", ".join(
        f"{name} {engine[name]}" for name in ("device", "dtype", "attention", "linear") if name in engine
    )
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return (
        f"## How it was made\n\n```\npython jobs/generate.py --config FILE\n```\n\n"
        f"FILE is the `config` in `_run/manifest.json`, which also names the input files and their sizes; "
        f"run fingerprint `{job.fingerprint}`, begun {report['created']}, ended {report['ended']}. "
        f"{kernels[:1].upper() + kernels[1:]}. {versions}.\n\n"
        f"`_run/report.html` and `_run/report.json` hold all figures of the run."
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    rows = [f"| {' | '.join(_cell(str(value)) for value in line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text.replace('`', '')}`"
