"""The one reader of what models write: captions, prompts, edits and marks.

Models think aloud, greet, fence, quote, number, explain, apologise, repeat themselves and stop in mid-sentence. What
can be read in one way only is read; all else is an `UnusableAnswer`, whose short fixed phrase is counted: another
attempt costs little, and a wrong text would go into a data set.

`answering` finds the answer in a reply; `sentences` reads one text out of it, `marks` the marks of a judge. `faults`
says whether a text can stand in a data set, wherever it came from, with the help of `languages`.
"""

from .answering import Pairs, UnusableAnswer, answer_part, is_refusal, json_values, quoted, visible
from .faults import fault_of_text
from .marks import read_marks
from .sentences import read_sentence, unquoted

__all__ = [
    "Pairs",
    "UnusableAnswer",
    "answer_part",
    "fault_of_text",
    "is_refusal",
    "json_values",
    "quoted",
    "read_marks",
    "read_sentence",
    "unquoted",
    "visible",
]
