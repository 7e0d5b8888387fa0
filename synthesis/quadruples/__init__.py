"""Quadruples: two captions of one subject, and the edits that lead from either to the other.

`prompting` has a language model write them; its answers go through `parsing` and `checks`. `near_duplicates` looks over
everything that was written. The grammar that needs no model is in `stand_ins/`.
"""
