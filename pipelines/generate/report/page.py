"""Pieces of a page: one file, no scripts, nothing from outside, for light and dark screens and paper."""

from collections.abc import Iterable, Sequence
from html import escape

from pipelines.generate.report.page_style import STYLE


def page(title: str, body: str) -> str:
    """A whole document.

    Args:
        body: html; all text in it is escaped.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    """A heading and what is under it, html both."""
    return f"<section><h2>{title}</h2>{content}</section>"


def table(head: Sequence[str], lines: Iterable[Sequence[str]], *, text_columns: int) -> str:
    """A table of cells that are html already; numbers, right aligned, follow the text columns."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{'' if place < text_columns else ' class=num'}>{value}</{tag}>"
            for place, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', line)}</tr>" for line in lines)
    top = f"<thead><tr>{cells('th', head)}</tr></thead>"
    return f"<div class='wide'><table>{top}<tbody>{body}</tbody></table></div>"


def pairs(facts: Iterable[tuple[str, str]]) -> str:
    """Names and values that are html already."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{v or '-'}</dd>" for k, v in facts) + "</dl>"


def bar(value: float | None, most: float, unit: str = "", digits: int = 2) -> str:
    """A number with a bar beside it, from 0."""
    if value is None:
        return "-"
    width = 100 * value / most if most else 0
    return (
        f"<span class='bar'><i style='width:{width:.1f}%'></i></span>"
        f"<span class='figure'>{value:.{digits}f}{unit}</span>"
    )


def count(value: int) -> str:
    """A whole number."""
    return f"{value:,}"


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many digits, - for none."""
    return "-" if value is None else f"{value:,.{digits}f}"
