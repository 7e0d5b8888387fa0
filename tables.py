"""Tables in Markdown that are also readable as text: every table in a page or a card is made here."""

import re
from collections.abc import Sequence

from .markdown_text import Markdown, plain

_NUMBER = re.compile(r"(?:[-+<]?\s?\d[\d,.]*(?:e[-+]\d+)?\s?%?(?:\s±\s[\d.]+)?(?:\s[\[(][-+\d,.\sto%]*[\])])?|nan|-|)")
_WIDEST = 60  # characters up to which cells are filled up with blanks


def markdown_table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A table that shows just what it is given, numbers flush right; "None." without rows.

    Args:
        header: one heading per column; "" is allowed.
        rows: one cell per column. Texts are escaped, unless they are `Markdown`.
    """
    if not rows:
        return "None."
    lines = [[_cell(cell) for cell in line] for line in (header, *rows)]
    columns = list(zip(*lines, strict=True))
    is_number = [any(column[1:]) and all(map(_NUMBER.fullmatch, column[1:])) for column in columns]
    widths = [max(3, *(min(_WIDEST, len(cell)) for cell in column)) for column in columns]
    if not is_number[-1]:
        widths[-1] = max(3, len(columns[-1][0]))  # no blanks behind running text
    pads = [str.rjust if flush_right else str.ljust for flush_right in is_number]
    padded = [[pad(*one) for pad, *one in zip(pads, line, widths, strict=True)] for line in lines]
    rule = ["-" * (width - 1) + "-:"[right] for width, right in zip(widths, is_number, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))


def _cell(content: object) -> str:
    text = str(content)
    return text if isinstance(content, Markdown) or _NUMBER.fullmatch(text) else plain(text)
