"""Quadruples: two captions of one subject, and the edits that lead from either to the other.

Writers, chosen in a recipe by their kind: `grammar` of the painted world, and `prompting` of language models, whose
answers go through `parsing` and `checks`. `near_duplicates` looks over all that is written, `diversity` measures it.
"""

from .grammar import GrammarWriter
from .prompting import LanguageModelWriter
from .writing import FIELDS, QuadrupleWriter

__all__ = ["FIELDS", "GrammarWriter", "LanguageModelWriter", "QuadrupleWriter"]
