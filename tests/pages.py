"""Reading pages of Markdown in tests."""

import re


def unpadded(page: str) -> str:
    """A page whose tables are not filled up with blanks: cells stand as they are."""
    return re.sub(r" {2,}", " ", page)
