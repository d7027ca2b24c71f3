"""The report as one page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipelines.command.wording import count_of
from pipelines.generate.report.page import bar, count, number, page, pairs, section, table
from pipelines.generate.report.plots import length_plot, position_plot, short, speed_plot
from pipelines.generate.report.terminal import cost_line, dates
from pipelines.generate.report.verdict import drafting_note, duplicates_note

Report = Mapping[str, Any]
COLOURS = ("blue", "orange", "green", "pink", "sky", "red", "yellow", "grey")


def html_report(report: Report) -> str:
    """Return the page of a report as `figures.run_report` makes it; all text in it is escaped."""
    sections = (
        _headline(report),
        _samples(report),
        _speed(report),
        _acceptance(report),
        *(_group(name, rows) for name, rows in report["by_group"].items()),
        _finish(report),
        _errors(report),
        _audit(report),
        _time(report),
        _facts(report),
    )
    title = f"Run {report['fingerprint']}: {report['status']}"
    body = "\n".join(part for part in sections if part)
    return page(title, body)


def _headline(report: Report) -> str:
    run, audit = report["this_run"], report["audit"]
    status = escape(report["status"])
    tiles = [
        ("rows", count(report["rows"]), _of(report)),
        ("errors", count(report["errors"]), _share(report["errors"], report["rows"])),
        ("completion tokens", short(report["completion_tokens"]), ""),
        ("tokens/s", number(run["tokens_per_s"], 0), "this session, start-up included"),
        ("tokens per step", number(report["acceptance_length"]), "acceptance length"),
        ("tokens per forward", number(report["tokens_per_forward"]), "draft and verify passes"),
    ]
    if audit.get("compared"):
        tiles.append(("audit", _of_compared(audit, "identical"), "identical to plain AR"))
    if cost := report.get("cost"):
        tiles.append(("per million tokens", f"{cost['per_million_tokens']:,.2f}", escape(cost["currency"])))
    cells = "".join(
        f'<div class="tile"><div class="name">{name}</div><div class="value">{value}</div>'
        f'<div class="note">{note}</div></div>'
        for name, value, note in tiles
    )
    reason = f'<p class="reason">{escape(report["reason"])}</p>' if report.get("reason") else ""
    alarm = (
        "<p class='reason'>Drafts hardly ever stood: see drafter_alarm.</p>" if run["drafter_alarm"] else ""
    )
    notes = [note for note in (drafting_note(report), duplicates_note(report)) if note]
    alarm += "".join(f"<p class='reason'>{escape(note)}</p>" for note in notes)
    covers = "<p>Figures of this session only.</p>" if report.get("covers") == "this session" else ""
    return (
        f"<header><h1>Generation run <span class='status {status}'>{status}</span></h1>"
        f"<p class='path'>{escape(report['model']['path'])} → {escape(report['output'])}</p>"
        f"<p>{escape(dates(report))}</p>"
        f"{reason}{covers}{alarm}</header>"
        f'<div class="tiles">{cells}</div>'
    )


def _samples(report: Report) -> str:
    samples = report.get("samples", [])
    blocks = [
        f"<figure><figcaption>{escape(one['id'])}</figcaption>"
        + (f"<p class='prompt'>{escape(one['prompt'])}</p>" if one["prompt"] else "")
        + f"<p class='text'>{escape(one['completion'])}</p></figure>"
        for one in samples
    ]
    return section("The first completions", "".join(blocks)) if blocks else ""


def _speed(report: Report) -> str:
    speed = report["speed_over_time"]
    if not speed:
        return ""
    sessions = len(speed["sessions"])
    note = "From the times at which units were done, model load included."
    if sessions > 1:
        note += f" {sessions} sessions, parted by dotted lines; the time between them is left out."
    return section("Speed over time", f"<p>{note}</p>" + speed_plot(speed))


def _acceptance(report: Report) -> str:
    parts = []
    if any(report["drafted_by_position"]):
        parts.append(
            "<h3>By position</h3>"
            + position_plot(report["drafted_by_position"], report["accepted_by_position"])
        )
    lengths = [bucket for bucket in report["by_length"] if bucket["acceptance_length"] is not None]
    if lengths and report["decode"]["mode"] == "consensus":
        parts.append(
            "<h3>By completion length</h3><p>Tokens per step; the dashed line at 1 is plain AR.</p>"
            + length_plot(lengths)
        )
    if not parts:
        return section("Acceptance", "<p>Nothing was drafted: plain AR decoding, or no steps.</p>")
    return section("Acceptance", "".join(parts))


def _group(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    most = max((row["acceptance_length"] or 0.0 for row in rows), default=0.0)
    lines = [
        (
            f"<span class='clip' title='{escape(row['value'])}'>{escape(row['value'])}</span>",
            count(row["rows"]),
            count(row["errors"]),
            number(row["mean_tokens"], 1),
            bar(row["acceptance_length"], most),
        )
        for row in rows
    ]
    head = ("value", "rows", "errors", "mean tokens", "tokens per step")
    return section(f"By {escape(name)}", table(head, lines, text_columns=1))


def _finish(report: Report) -> str:
    reasons, total = report["finish_reasons"], max(1, report["rows"])
    if not reasons:
        return section("Finish reasons", "<p>No rows.</p>")
    lines = [
        (escape(name), count(rows), bar(100 * rows / total, 100, " %", 1))
        for name, rows in sorted(reasons.items(), key=lambda item: -item[1])
    ]
    return section("Finish reasons", table(("reason", "rows", "share"), lines, text_columns=1))


def _errors(report: Report) -> str:
    kinds = report["error_kinds"]
    if not kinds:
        return section("Errors", "<p>None.</p>")
    blocks = []
    for kind, entry in kinds.items():
        examples = "".join(
            f"<li><code>{escape(one['id'])}</code> {escape(one['error'])}</li>" for one in entry["examples"]
        )
        blocks.append(f"<h3>{count(entry['count'])} × {escape(kind)}</h3><ul>{examples}</ul>")
    return section("Errors", "".join(blocks))


def _audit(report: Report) -> str:
    audit = report["audit"]
    note = f"<p>{escape(audit['note'])}</p>" if audit.get("note") else ""
    if not audit.get("selected"):
        return section("Audit", note or "<p>No row was chosen.</p>")
    facts = [
        ("rows chosen", count(audit["selected"])),
        ("decoded again in plain AR", count(audit["compared"])),
        ("identical", _of_compared(audit, "identical")),
        ("same token ids", _of_compared(audit, "same_tokens")),
        ("same log-probability bits", _of_compared(audit, "same_logprobs")),
        ("not comparable or errors", count(audit["skipped"])),
        ("not decoded again (interrupted)", count(audit["lost"])),
        ("time of it", f"{audit['seconds']:.1f} s"),
    ]
    if speed := audit.get("speed_ratio"):
        spread = f"{speed['median']:.2f} ({speed['min']:.2f}-{speed['max']:.2f}, {speed['pairs']} pairs)"
        facts.append(("speed, consensus / plain AR", spread))
    return section("Audit", note + pairs(facts) + _mismatches(audit["mismatches"]))


def _mismatches(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    head = ("row", "file", "first token", "written", "plain AR", "differs in")
    lines = [
        (
            f"<span class='clip'>{escape(str(row['id']))}</span> [{row['sample']}]",
            f"part-{row['shard']:05}-{row['unit']:05}",
            *(str(row[name]) for name in ("first_token", "written", "plain_ar")),
            escape(row["reason"]),
        )
        for row in rows[:50]
    ]
    return "<h3>Rows that differ</h3>" + table(head, lines, text_columns=1)


def _time(report: Report) -> str:
    run = report["this_run"]
    split = {name: seconds for name, seconds in run["time_split"].items() if seconds > 0}
    total = sum(split.values())
    if not total:
        return ""
    parts = list(zip(split.items(), COLOURS, strict=False))
    stripes = "".join(
        f"<i class='{colour}' style='width:{100 * seconds / total:.2f}%'></i>"
        for (_, seconds), colour in parts
    )
    legend = "".join(
        f"<li><i class='{colour}'></i>{escape(name)} {seconds:,.1f} s ({100 * seconds / total:.0f} %)</li>"
        for (name, seconds), colour in parts
    )
    note = f"<p>This session, {run['wall_s']:,.1f} s, mean of {run['actors']} actor(s).</p>"
    return section(
        "Where the time went", f"{note}<div class='split'>{stripes}</div><ul class='legend'>{legend}</ul>"
    )


def _facts(report: Report) -> str:
    engine, inputs = report["engine"] or {}, report["inputs"]
    files = [(escape(one["url"]), count(one["rows"])) for one in inputs["first"]]
    more = inputs["files"] - len(files)
    left = f"<p>and {more:,} more</p>" if more > 0 else ""
    parts = [
        f"<h3>Model</h3>{_plain(report['model'])}",
        f"<h3>Engine</h3>{_plain(engine)}" if engine else "",
        f"<h3>Sampling</h3>{_plain(report['sampling'])}",
        f"<h3>Inputs</h3><p>{count_of(inputs['files'], 'file')}, {count_of(inputs['rows'], 'row')}, "
        f"{inputs['bytes'] / 2**20:,.1f} MiB</p>{table(('file', 'rows'), files, text_columns=1)}{left}",
        f"<h3>Versions</h3>{_plain(report['versions'])}",
    ]
    if cost := report.get("cost"):
        parts.insert(0, f"<h3>Cost</h3><p>{escape(cost_line(cost))}</p>")
    when = f"<p>Begun {escape(str(report['created']))}, ended {escape(report['ended'])}.</p>"
    return section("How it was made", when + "".join(parts))


def _plain(values: Mapping[str, Any]) -> str:
    return pairs([(n, escape(_text(value))) for n, value in values.items() if not isinstance(value, dict)])


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _of(report: Report) -> str:
    planned = report["rows_planned"]
    return "" if report["status"] in ("done", "mismatch") else f"of {planned:,}"


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.2g} % of rows" if of else ""


def _of_compared(audit: Mapping[str, Any], name: str) -> str:
    return f"{audit.get(name, 0):,} of {audit['compared']:,}"
