"""Text before it is drawn: which characters a font has, how wide a line is, and where lines break."""

import unicodedata
from functools import cache
from pathlib import Path

from PIL import ImageFont

SCALE = 4  # text is drawn this much larger, then reduced, or small letters snap to whole pixels and words run together


@cache
def _load_font(path: str | Path | None, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size) if path else ImageFont.load_default(size)


class Typeface:
    """A font in all sizes.

    Args:
        path: a TrueType file, needed for text outside Latin script; None is Pillow's own font, which draws a box for a
            character that it lacks.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = path

    def enlarged(self, size: int) -> ImageFont.FreeTypeFont:
        """The font at `SCALE` times a size in pixels."""
        return _load_font(self.path, SCALE * size)

    def width(self, text: str, size: int) -> float:
        """The width of a line, in pixels."""
        return self.enlarged(size).getlength(text) / SCALE

    def drawable(self, text: str) -> str:
        """One line without control characters; Pillow's own font has no accents and no long dashes."""
        text = "".join(char for char in text if char.isspace() or not unicodedata.category(char).startswith("C"))
        if self.path is None:
            text = unicodedata.normalize("NFKD", text.replace("–", "-").replace("—", "-").replace("…", "..."))
            text = "".join(char for char in text if not unicodedata.combining(char))
        return " ".join(text.split())

    def wrap(self, text: str, size: int, width: int, max_lines: int) -> list[str]:
        """Breaks text into lines of `width` pixels; an ellipsis replaces what does not fit into `max_lines`."""
        lines = [""]
        for word in self.drawable(text).split():
            if len(lines) > max_lines:  # what follows is not shown, and may be a book
                break
            longer = f"{lines[-1]} {word}".strip()
            if self.width(longer, size) <= width:
                lines[-1] = longer
                continue
            if lines[-1]:
                lines.append("")
            for char in word:  # only a word wider than the line is broken
                if len(lines) > max_lines:
                    break
                if self.width(lines[-1] + char, size) > width:
                    lines.append("")
                lines[-1] += char
        if len(lines) > max_lines:
            last = lines[max_lines - 1]
            while last and self.width(f"{last}...", size) > width:
                last = last[:-1]
            lines = [*lines[: max_lines - 1], last.rstrip(" ,.;") + "..."]
        return lines
