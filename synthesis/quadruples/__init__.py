"""Quadruples: two captions of one subject, and the edits that lead from either to the other.

`prompting` has a language model write them, whose answers go through `parsing` and `checks`. `near_duplicates` looks
over all that is written, `diversity` measures it. The grammar that needs no model is in `stand_ins/`.
"""

from .prompting import LanguageModelWriter
from .writing import FIELDS, QuadrupleWriter

__all__ = ["FIELDS", "LanguageModelWriter", "QuadrupleWriter"]
