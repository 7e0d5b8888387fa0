"""The grammar says what is worn, or what changed, and nothing else."""

import re
from dataclasses import replace

import numpy as np
import pytest

from fafa.world.captions import SYNONYMS, describe_change, describe_outfit
from fafa.world.making import plan_test
from fafa.world.people import (
    HARBOUR,
    HOME,
    PAINTS,
    PATTERNS,
    SLOTS,
    TOWNS,
    Garment,
    Outfit,
    changed_slots,
    sample_change,
    sample_outfit,
)

OUTFIT = Outfit(Garment("sweater", "red", "striped"), Garment("jeans", "blue"), Garment("boots", "black"))


def names(word):
    return SYNONYMS.get(word, (word,))


def mentions(caption, word):
    """Whether the caption holds the word under any of its names."""
    return any(re.search(rf"(?<![\w-]){re.escape(name)}\b", caption.lower()) for name in names(word))


def sampled_changes(count, town=HOME):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        before = sample_outfit(rng, bool(seed % 2), town)
        after = sample_change(rng, before, bool(seed % 2), town)
        yield before, after, describe_change(before, after, rng)


def test_words_are_unambiguous():
    """A synonym that stood for two words would let a caption describe two outfits."""
    words = [*PAINTS, *PATTERNS[2:], *HARBOUR.patterns[2:]]
    words += [kind for town in TOWNS.values() for kinds in town.wardrobe.values() for kind in kinds]
    all_names = [name for word in words for name in names(word)]
    assert len(all_names) == len(set(all_names))
    assert set(SYNONYMS) <= set(words)


@pytest.mark.parametrize("town", TOWNS.values(), ids=TOWNS)
def test_edit_captions_name_every_changed_slot_and_no_other(town):
    for before, after, caption in sampled_changes(400, town):
        changed = changed_slots(before, after)
        for slot in SLOTS:
            old, new = getattr(before, slot), getattr(after, slot)
            named = [kind for kind in town.wardrobe[slot] if mentions(caption, kind)]
            # "swap the cap for a blue one" names the kind once, "replace the jeans with a skirt" both kinds.
            expected = {garment.kind for garment in (old, new) if garment} if slot in changed else set()
            assert set(named) <= expected, (caption, slot)
            assert bool(named) == bool(expected), (caption, slot)
            if slot in changed and new:
                assert new.kind in named, (caption, slot)


def planned_changes():
    """The changes and captions of a test set's queries."""
    queries, gallery, pictures = plan_test(num_queries=125, gallery_size=560, seed=0)
    worn = {picture.path.removeprefix("ITCPR/"): picture.outfit for picture in pictures}
    asked_for = {record["instance_id"]: worn[record["file_path"]] for record in gallery}
    for query in queries:
        yield worn[query["file_path"]], asked_for[query["instance_id"]], query["caption"]


@pytest.mark.parametrize(
    "changes",
    [sampled_changes(400), planned_changes(), sampled_changes(400, HARBOUR)],
    ids=["training", "queries", "harbour"],
)
def test_edit_captions_hold_the_colours_and_patterns_of_what_is_new_and_no_others(changes):
    for before, after, caption in changes:
        new = [getattr(after, slot) for slot in changed_slots(before, after) if getattr(after, slot)]
        colours = {garment.colour for garment in new}
        assert {colour for colour in PAINTS if mentions(caption, colour)} == colours, caption
        patterns = {garment.pattern for garment in new} - {"plain"}
        assert {pattern for pattern in (*PATTERNS, *HARBOUR.patterns) if mentions(caption, pattern)} == patterns, (
            caption
        )


def test_removal_of_a_bag_is_said_and_keeps_its_colour_to_itself():
    before = replace(OUTFIT, bag=Garment("backpack", "yellow"))
    for seed in range(30):
        caption = describe_change(before, OUTFIT, np.random.default_rng(seed)).lower()
        assert "backpack" in caption and "yellow" not in caption
        assert re.search(r"\b(without|no|no longer|remove|take off|leave out|lost)\b", caption), caption


def test_two_equal_outfits_have_no_edit_caption():
    with pytest.raises(ValueError, match="nothing to describe"):
        describe_change(OUTFIT, OUTFIT, np.random.default_rng(0))


def test_outfit_captions_name_the_clothes_and_only_them():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        outfit = sample_outfit(rng, test=False)
        caption = describe_outfit(outfit, rng)
        for slot in ("upper", "lower", "bag", "hat"):
            garment = getattr(outfit, slot)
            named = [kind for kind in HOME.wardrobe[slot] if mentions(caption, kind)]
            assert named == ([garment.kind] if garment else []), caption
            assert garment is None or mentions(caption, garment.colour)
        assert not re.search(r"\b(hair|skin|beard|glasses|tall|man|woman)\b", caption.lower()), caption


def test_captions_fit_into_32_tokens():
    """WordPiece splits hyphens and punctuation off; [DEC] and [SEP] are added; some words may fall into pieces."""
    lengths = []
    for before, after, caption in sampled_changes(500):
        for text in (
            caption,
            describe_outfit(before, np.random.default_rng(0)),
            describe_outfit(after, np.random.default_rng(1)),
        ):
            lengths.append(len(re.findall(r"\w+|[^\w\s]", text)))
    assert max(lengths) <= 26


def test_wording_varies():
    before = replace(OUTFIT, hat=Garment("cap", "red"))
    after = replace(OUTFIT, upper=Garment("coat", "green"))
    captions = {describe_change(before, after, np.random.default_rng(seed)) for seed in range(200)}
    assert len(captions) > 60
    assert len({caption.split()[0] for caption in captions}) > 5


@pytest.mark.parametrize("colour, article", [("orange", "an"), ("green", "a")])
def test_articles(colour, article):
    after = replace(OUTFIT, upper=Garment("coat", colour))
    for seed in range(20):
        caption = describe_change(OUTFIT, after, np.random.default_rng(seed))
        assert re.search(rf"\b{article} {colour} (coat|overcoat)", caption), caption
