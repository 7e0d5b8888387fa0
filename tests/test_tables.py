"""Tables: numbers flush right, texts escaped, sources that people can read."""

import pytest

from fafa.markdown_text import Markdown
from fafa.tables import markdown_table


def test_numbers_stand_on_the_right():
    assert markdown_table(["name", "of all"], [["a", "1.5"], ["longer", 12_000]]).splitlines() == [
        "| name   | of all |",
        "| ------ | -----: |",
        "| a      |    1.5 |",
        "| longer |  12000 |",
    ]


@pytest.mark.parametrize(
    "cells",
    [
        ["1.0 [0.9, 1.1]", "+20.00 [-40.00, +80.00]"],
        ["12.3 % (10.1 to 14.5)", "-"],
        ["< 0.001", "0.034"],
        ["12.3 ± 0.4", ""],
        ["1e-05", "nan"],
    ],
)
def test_what_counts_as_a_number(cells):
    assert markdown_table(["a", "b"], [["x", cell] for cell in cells]).splitlines()[1].endswith("-: |")


def test_cells_cannot_break_a_table():
    table = markdown_table(["caption", "rank"], [["a | b\nc", "1"], ["# d", "12,345"], [Markdown("**e**"), ""]])
    assert table.splitlines()[2:] == [
        r"| a \| b c |      1 |",
        r"| \# d     | 12,345 |",
        "| **e**    |        |",
    ]


def test_running_text_is_not_filled_up():
    long = "word " * 40
    table = markdown_table(["a", "b", "c"], [[long, "1", long], ["x", "2", "y"]])
    assert table.splitlines()[1] == f"| {'-' * 60} | --: | --- |"
    assert table.splitlines()[3] == f"| {'x':60} |   2 | y   |"
    assert markdown_table(["a"], []) == "None."
