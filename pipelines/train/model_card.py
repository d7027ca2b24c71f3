"""The model card: README.md of a trained model, made from what the run knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines.train.rows import RowCounts

AT_POSITION, AT_LENGTH = "accepted_at_", "acceptance_length_at_"


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Attributes:
        name: of the model's directory.
        config: as stored, without credentials.
        base: the backbone's path or hub id; None: trained from scratch.
        base_hash: of its files.
        mask_token: of the head, and what it is; None without one.
        data_fingerprint: of the documents in order; None: generated tasks.
        counts: of rows; None likewise.
        progress: the run's last state, with its history.
        versions: of packages.
    """

    name: str
    config: Mapping[str, Any]
    base: str | None
    base_hash: str | None
    mask_token: str | None
    data_fingerprint: str | None
    counts: RowCounts | None
    progress: Mapping[str, Any]
    versions: Mapping[str, str]


def model_card(facts: CardFacts) -> str:
    """The whole card as Markdown with the hub's front matter."""
    head: dict[str, Any] = {"library_name": "orthrus", "pipeline_tag": "text-generation"}
    if facts.base is not None:
        head["base_model"] = facts.base
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {facts.name}",
        _what(facts),
        "## Use\n\n```\npython jobs/generate.py --config FILE --set model.path=DIRECTORY\n```",
        f"## Training\n\n{_training(facts)}",
        f"## Held-out figures\n\n{_figures(facts)}",
        "## Made again by\n\n`python jobs/train.py --config train_config.yaml`, which lies beside this file "
        f"(set `output.path`), with {', '.join(f'{name} {v}' for name, v in facts.versions.items())}.",
        f"## Recipe\n\n```yaml\n{yaml.safe_dump(dict(facts.config), sort_keys=False)}```",
    ]
    return "\n\n".join(parts) + "\n"


def _what(facts: CardFacts) -> str:
    if facts.base is None:
        return "A small language model, trained from scratch on generated tasks."
    return (
        f"`{facts.base}` (files {facts.base_hash}) with a diffusion head of block size "
        f"{facts.config['head']['block_size']}. The backbone's own tensors are unchanged, so that the AR "
        "view writes what the backbone writes; the head proposes several tokens at a time."
    )


def _training(facts: CardFacts) -> str:
    progress = facts.progress
    rows = [
        ("updates", progress["step"]),
        ("tokens seen", progress["tokens"]),
        ("seconds", progress["seconds"]),
    ]
    if facts.mask_token is not None:
        rows.append(("mask token", facts.mask_token))
    if facts.counts is not None:
        left_out = facts.counts.rows - facts.counts.used
        rows += [
            ("rows", f"{facts.counts.rows}, of which {left_out} left out ({_reasons(facts.counts)})"),
            ("tokens in the data", f"{facts.counts.tokens}, {facts.counts.completion_tokens} of completions"),
            ("held-out rows", facts.config["data"]["held_out_documents"]),
            ("data fingerprint", f"`{facts.data_fingerprint}`"),
        ]
    return _table(("what", "value"), rows)


def _reasons(counts: RowCounts) -> str:
    names = {
        "errors": "errors",
        "no_prompt": "no prompt",
        "no_completion": "no completion",
        "with_mask": "with the mask token",
        "too_long": "too long",
    }
    found = [f"{getattr(counts, name)} {text}" for name, text in names.items() if getattr(counts, name)]
    return ", ".join(found) or "none"


def _figures(facts: CardFacts) -> str:
    """Last held-out figures; acceptance by position and by block length as tables."""
    last: dict[str, float] = {}
    for figures in facts.progress["history"]:
        last |= figures
    positions = {int(n.removeprefix(AT_POSITION)): v for n, v in last.items() if n.startswith(AT_POSITION)}
    lengths = {int(n.removeprefix(AT_LENGTH)): v for n, v in last.items() if n.startswith(AT_LENGTH)}
    if "acceptance_length" in last:
        lengths[facts.config["head"]["block_size"]] = last["acceptance_length"]
    plain = {
        name: value
        for name, value in last.items()
        if not name.startswith((AT_POSITION, AT_LENGTH))
        and name not in ("step", "tokens", "acceptance_length")
    }
    tables = [_table(("figure", "value"), [(name, f"{value:.4f}") for name, value in plain.items()])]
    if lengths:
        tables.append(
            "Acceptance length (drafts that agree with the text before the first that does not, and one):\n\n"
            + _table(
                ("block size", "acceptance length"), [(k, f"{v:.3f}") for k, v in sorted(lengths.items())]
            )
        )
    if positions:
        tables.append(
            "Share of drafts accepted, by position, of those whose predecessors were:\n\n"
            + _table(("position", "accepted"), [(k, f"{v:.3f}") for k, v in sorted(positions.items())])
        )
    return "\n\n".join(tables)


def _table(head: tuple[str, str], rows: list[tuple[Any, Any]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows)])
