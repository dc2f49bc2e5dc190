"""The pieces of a report's page: sections, sortable tables and images, as HTML. What is put in is escaped already."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Cell:
    """Of a table: HTML, and what it is sorted by."""

    html: str
    value: str | float | None = None
    kind: str = ""
    """CSS classes; ``number`` is right-aligned and sorted as one, ``numeric`` only sorted."""


def section(heading: str, html: str) -> str:
    """A part of the page; nothing where there is nothing to say."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{html}\n</section>" if html else ""


def note(text: str) -> str:
    """Small print."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def number(value: float | None, text: Callable[[float], str], kind: str = "number") -> Cell:
    """A cell with a number, or a dash that is sorted last."""
    if value is None or not math.isfinite(value):
        return Cell("–", None, kind)
    return Cell(text(value), value, kind)


def render(headings: Sequence[tuple[str, str]], rows: Iterable[tuple[str, list[Cell]]], label: str) -> str:
    """A table whose headings sort it.

    Args:
        headings: text and CSS classes.
        rows: CSS classes and cells, the first of which names the row.
        label: what the table is, for those who do not see it.
    """
    top = "".join(
        f'<th scope="col" class="{kind}"><button type="button">{escape(text)}</button></th>' for text, kind in headings
    )
    body = []
    for kind, cells in rows:
        inner = []
        for k, cell in enumerate(cells):
            value = "" if cell.value is None else f' data-value="{escape(str(cell.value))}"'
            tag, scope = ("th", ' scope="row"') if k == 0 else ("td", "")
            inner.append(f'<{tag}{scope} class="{cell.kind}"{value}>{cell.html}</{tag}>')
        body.append(f'<tr class="{kind}">{"".join(inner)}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="sortable">'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table></div>"
    )


def figure(content: bytes, mime: str, text: str, kind: str = "") -> str:
    """An image inside the page, its size known before it is drawn."""
    from PIL import Image

    width, height = Image.open(io.BytesIO(content)).size
    data = base64.b64encode(content).decode()
    return (
        f'<figure class="{kind.strip()}"><img src="data:{mime};base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(text)}"><figcaption>{escape(text)}</figcaption></figure>'
    )
