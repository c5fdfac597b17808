"""Self-contained HTML pages: one style sheet, tables, embedded images."""

import base64
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path

Cells = Sequence[Sequence[str]]
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 14px }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top }
th { color: #666; font-weight: 600 }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
img { max-width: 100%; height: auto }
.quiet { color: #666 }
"""


def page(title: str, heading: str, parts: Sequence[str]) -> str:
    """Return a page.

    Args:
        title: title of the browser tab, as text.
        heading: heading of the page, as text.
        parts: the body as HTML, from the functions of this module.
    """
    body = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(heading)}</h1>\n{body}\n</body></html>\n"
    )


def section(title: str) -> str:
    """Return text as the heading of a section."""
    return f"<h2>{escape(title)}</h2>"


def paragraph(text: str, *, quiet: bool = False, bold: bool = False) -> str:
    """Return text as a paragraph."""
    content = f"<strong>{escape(text)}</strong>" if bold else escape(text)
    return f"<p{' class=quiet' if quiet else ''}>{content}</p>"


def bullets(items: Sequence[str]) -> str:
    """Return texts as a bullet list."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def table(columns: Sequence[str], rows: Cells, numbers: Collection[str] = ()) -> str:
    """Return a table that scrolls if it is wider than the page.

    Args:
        columns: the headings, as text.
        rows: the cells, as text; a row may be shorter than the headings.
        numbers: headings of numeric columns, which are aligned to the right.
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    kinds = [" class=number" if column in numbers else "" for column in columns]
    lines = ["".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row, strict=False)) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class=wide><table><tr>{head}</tr>\n{body}</table></div>"


def image(path: Path, title: str) -> str:
    """Return a PNG as an embedded image with alternative text."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{escape(title)}" src="data:image/png;base64,{data}"></p>'
