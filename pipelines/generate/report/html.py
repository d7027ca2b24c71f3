"""The report as one page: no scripts, nothing from outside, for light and dark screens and paper."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from pipelines.command.wording import count_of
from pipelines.generate.report.page_style import STYLE
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
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def _headline(report: Report) -> str:
    run, audit = report["this_run"], report["audit"]
    status = escape(report["status"])
    tiles = [
        ("rows", _count(report["rows"]), _of(report)),
        ("errors", _count(report["errors"]), _share(report["errors"], report["rows"])),
        ("completion tokens", short(report["completion_tokens"]), ""),
        ("tokens/s", _number(run["tokens_per_s"], 0), "this session, start-up included"),
        ("tokens per step", _number(report["acceptance_length"]), "acceptance length"),
        ("tokens per forward", _number(report["tokens_per_forward"]), "draft and verify passes"),
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
    return _section("The first completions", "".join(blocks)) if blocks else ""


def _speed(report: Report) -> str:
    speed = report["speed_over_time"]
    if not speed:
        return ""
    sessions = len(speed["sessions"])
    note = "From the times at which units were done, model load included."
    if sessions > 1:
        note += f" {sessions} sessions, parted by dotted lines; the time between them is left out."
    return _section("Speed over time", f"<p>{note}</p>" + speed_plot(speed))


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
        return _section("Acceptance", "<p>Nothing was drafted: plain AR decoding, or no steps.</p>")
    return _section("Acceptance", "".join(parts))


def _group(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    most = max((row["acceptance_length"] or 0.0 for row in rows), default=0.0)
    lines = [
        (
            f"<span class='clip' title='{escape(row['value'])}'>{escape(row['value'])}</span>",
            _count(row["rows"]),
            _count(row["errors"]),
            _number(row["mean_tokens"], 1),
            _bar(row["acceptance_length"], most),
        )
        for row in rows
    ]
    head = ("value", "rows", "errors", "mean tokens", "tokens per step")
    return _section(f"By {escape(name)}", _table(head, lines, text_columns=1))


def _finish(report: Report) -> str:
    reasons, total = report["finish_reasons"], max(1, report["rows"])
    if not reasons:
        return _section("Finish reasons", "<p>No rows.</p>")
    lines = [
        (escape(name), _count(count), _bar(100 * count / total, 100, " %", 1))
        for name, count in sorted(reasons.items(), key=lambda item: -item[1])
    ]
    return _section("Finish reasons", _table(("reason", "rows", "share"), lines, text_columns=1))


def _errors(report: Report) -> str:
    kinds = report["error_kinds"]
    if not kinds:
        return _section("Errors", "<p>None.</p>")
    blocks = []
    for kind, entry in kinds.items():
        examples = "".join(
            f"<li><code>{escape(one['id'])}</code> {escape(one['error'])}</li>" for one in entry["examples"]
        )
        blocks.append(f"<h3>{_count(entry['count'])} × {escape(kind)}</h3><ul>{examples}</ul>")
    return _section("Errors", "".join(blocks))


def _audit(report: Report) -> str:
    audit = report["audit"]
    note = f"<p>{escape(audit['note'])}</p>" if audit.get("note") else ""
    if not audit.get("selected"):
        return _section("Audit", note or "<p>No row was chosen.</p>")
    facts = [
        ("rows chosen", _count(audit["selected"])),
        ("decoded again in plain AR", _count(audit["compared"])),
        ("identical", _of_compared(audit, "identical")),
        ("same token ids", _of_compared(audit, "same_tokens")),
        ("same log-probability bits", _of_compared(audit, "same_logprobs")),
        ("not comparable or errors", _count(audit["skipped"])),
        ("not decoded again (interrupted)", _count(audit["lost"])),
        ("time of it", f"{audit['seconds']:.1f} s"),
    ]
    if speed := audit.get("speed_ratio"):
        spread = f"{speed['median']:.2f} ({speed['min']:.2f}-{speed['max']:.2f}, {speed['pairs']} pairs)"
        facts.append(("speed, consensus / plain AR", spread))
    return _section("Audit", note + _pairs(facts) + _mismatches(audit["mismatches"]))


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
    return "<h3>Rows that differ</h3>" + _table(head, lines, text_columns=1)


def _time(report: Report) -> str:
    run = report["this_run"]
    split = {name: seconds for name, seconds in run["time_split"].items() if seconds > 0}
    total = sum(split.values())
    if not total:
        return ""
    parts = list(zip(split.items(), COLOURS, strict=False))
    bar = "".join(
        f"<i class='{colour}' style='width:{100 * seconds / total:.2f}%'></i>"
        for (_, seconds), colour in parts
    )
    legend = "".join(
        f"<li><i class='{colour}'></i>{escape(name)} {seconds:,.1f} s ({100 * seconds / total:.0f} %)</li>"
        for (name, seconds), colour in parts
    )
    note = f"<p>This session, {run['wall_s']:,.1f} s, mean of {run['actors']} actor(s).</p>"
    return _section(
        "Where the time went", f"{note}<div class='split'>{bar}</div><ul class='legend'>{legend}</ul>"
    )


def _facts(report: Report) -> str:
    engine, inputs = report["engine"] or {}, report["inputs"]
    files = [(escape(one["url"]), _count(one["rows"])) for one in inputs["first"]]
    more = inputs["files"] - len(files)
    left = f"<p>and {more:,} more</p>" if more > 0 else ""
    parts = [
        f"<h3>Model</h3>{_plain(report['model'])}",
        f"<h3>Engine</h3>{_plain(engine)}" if engine else "",
        f"<h3>Sampling</h3>{_plain(report['sampling'])}",
        f"<h3>Inputs</h3><p>{count_of(inputs['files'], 'file')}, {count_of(inputs['rows'], 'row')}, "
        f"{inputs['bytes'] / 2**20:,.1f} MiB</p>{_table(('file', 'rows'), files, text_columns=1)}{left}",
        f"<h3>Versions</h3>{_plain(report['versions'])}",
    ]
    if cost := report.get("cost"):
        parts.insert(0, f"<h3>Cost</h3><p>{escape(cost_line(cost))}</p>")
    when = f"<p>Begun {escape(str(report['created']))}, ended {escape(report['ended'])}.</p>"
    return _section("How it was made", when + "".join(parts))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], *, text_columns: int) -> str:
    """A table of cells that are html already; numbers, right aligned, follow the text columns."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{'' if place < text_columns else ' class=num'}>{value}</{tag}>"
            for place, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', line)}</tr>" for line in lines)
    top = f"<thead><tr>{cells('th', head)}</tr></thead>"
    return f"<div class='wide'><table>{top}<tbody>{body}</tbody></table></div>"


def _plain(values: Mapping[str, Any]) -> str:
    return _pairs([(n, escape(_text(value))) for n, value in values.items() if not isinstance(value, dict)])


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _pairs(facts: Iterable[tuple[str, str]]) -> str:
    """Names and values that are html already."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{v or '-'}</dd>" for k, v in facts) + "</dl>"


def _bar(value: float | None, most: float, unit: str = "", digits: int = 2) -> str:
    """A number with a bar beside it, from 0."""
    if value is None:
        return "-"
    width = 100 * value / most if most else 0
    return (
        f"<span class='bar'><i style='width:{width:.1f}%'></i></span>"
        f"<span class='figure'>{value:.{digits}f}{unit}</span>"
    )


def _of(report: Report) -> str:
    planned = report["rows_planned"]
    return "" if report["status"] in ("done", "mismatch") else f"of {planned:,}"


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.2g} % of rows" if of else ""


def _of_compared(audit: Mapping[str, Any], name: str) -> str:
    return f"{audit.get(name, 0):,} of {audit['compared']:,}"


def _count(value: int) -> str:
    return f"{value:,}"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
