"""Corrupted captions: what changes, how much, and what stays."""

from collections import Counter

import numpy as np
import pytest

from fafa.evaluation.robustness.captions import COLOURS, CORRUPTIONS, absent_object

CAPTION = "the same person is now in a red coat and blue jeans, carrying a black backpack over one shoulder"


def corrupt(name, severity=1, caption=CAPTION, seed=0):
    return CORRUPTIONS[name][0](caption, severity, np.random.default_rng(seed))


@pytest.mark.parametrize(("severity", "edits"), [(1, 2), (2, 4), (3, 8), (4, 12), (5, 15)])
def test_the_severity_is_the_share_of_characters(severity, edits):
    assert len(CAPTION) == 96
    assert len(corrupt("letters deleted", severity)) == 96 - edits
    changed = sum(map(str.__ne__, corrupt("letters mistyped", severity), CAPTION))
    assert changed == edits
    assert corrupt("spaces removed", severity).count(" ") == CAPTION.count(" ") - min(edits, CAPTION.count(" "))


def test_swapped_letters_are_the_same_letters():
    swapped = corrupt("letters swapped", 5)
    assert swapped != CAPTION and Counter(swapped) == Counter(CAPTION)


def test_a_short_caption_is_changed_once_and_never_emptied():
    for name in ("letters swapped", "letters deleted", "letters mistyped"):
        assert corrupt(name, 1, "red") != "red"
    assert corrupt("letters deleted", 5, "a") == "a"
    assert corrupt("letters swapped", 5, "a") == "a"


def test_a_repeated_word_comes_as_often_as_the_severity_says():
    words = corrupt("word repeated", 4).split()
    assert len(words) == len(CAPTION.split()) + 4
    assert [word for place, word in enumerate(words) if place == 0 or words[place - 1] != word] == CAPTION.split()


@pytest.mark.parametrize("seed", range(5))
def test_swapped_colours_are_colours_and_nothing_else_changes(seed):
    before, after = CAPTION.split(), corrupt("colours swapped", seed=seed).split()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [old for old, _ in changed] == ["red", "blue", "black"]
    assert {new for _, new in changed} <= set(COLOURS) - {"red", "blue", "black"}


@pytest.mark.parametrize("seed", range(5))
def test_swapped_objects_stay_of_their_kind(seed):
    after = corrupt("objects swapped", seed=seed, caption="a violet tee, Jeans and a hat")
    shirt, trousers, hat = after.split()[2].strip(","), after.split()[3], after.split()[-1]
    assert shirt in ("coat", "jacket", "shirt", "sweater", "hoodie", "vest", "dress", "skirt", "blouse")
    assert trousers in ("trousers", "shorts", "leggings") and hat in ("cap", "beanie", "helmet", "scarf")


def test_a_caption_without_the_words_stays_as_it_is():
    assert corrupt("colours swapped", caption="now redder, in boots") == "now redder, in boots"
    assert corrupt("objects swapped", caption="all in red") == "all in red"


@pytest.mark.parametrize("seed", range(20))
def test_an_absent_object_is_absent(seed):
    assert absent_object("a coat, jeans, boots, a cap and a bag", np.random.default_rng(seed)) not in (
        *("coat", "jeans", "boots"),
        *("cap", "bag"),
    )
