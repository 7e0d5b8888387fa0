"""Good quadruples of the words that the recipes ask for: every item of their pools in every kind of edit.

python tests/recipe_vocabulary.py        # how many of them are refused, and for what
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from fafa.synthesis.quadruples.checks import CheckSettings, fault_of
from fafa.synthesis.quadruples.writing import FIELDS
from fafa.synthesis.recipes import FOLDER, read_recipe

WORN = ("top", "coat", "onepiece", "accessory", "shoe", "bottom")
CARRIED = ("bag", "carried")
# How something is added and taken away again, exchanged, and changed, in the voices of the recipe.
ADDED = [
    ("Add {new}.", "Remove {the_new}."),
    ("Put on {new}.", "Take off {the_new}."),
    ("Give her {new}.", "Take {the_new} off."),
    ("She now wears {new}.", "She no longer wears {the_new}."),
    ("With {new}.", "Without {the_new}."),
    ("{New} in addition.", "No {bare_new}."),
    ("Same person but with {new}.", "Same person but with no {bare_new}."),
    ("{New} is added.", "{The_new} is removed."),
    ("I would like to see {new} on her.", "Please leave out {the_new}."),
    ("{New}, please.", "Lose {the_new}."),
]
TAKEN_UP = [
    ("Let her hold {new}.", "Let her put away {the_new}."),
    ("Add {new}.", "Remove {the_new}."),
    ("She now carries {new}.", "She carries {the_new} no longer."),
    ("With {new}.", "Without {the_new}."),
    ("{New} in hand.", "No {bare_new}."),
]
ADDED_AS_IT_IS = [
    ("Add {new}.", "No {bare_new}."),
    ("{New} too.", "No {bare_new} any more."),
    ("With {new}.", "Without {bare_new}."),
]
EXCHANGED = [
    ("Replace {the_old} with {new}.", "Replace {the_new} with {old}."),
    ("Swap {the_old} for {new}.", "Swap {the_new} for {old}."),
    ("Change {the_old} to {new}.", "Change {the_new} to {old}."),
    ("{New} instead of {the_old}.", "{Old} instead of {the_new}."),
    ("{The_old} is replaced by {new}.", "{The_new} is replaced by {old}."),
    ("She now wears {new} rather than {old}.", "She now wears {old} rather than {new}."),
    ("{New}, not {old}.", "{Old}, not {new}."),
    ("{New}.", "{Old}."),
    ("Take off {the_old} and put on {new}.", "Take off {the_new} and put on {old}."),
    ("From {old} to {new}.", "From {new} to {old}."),
]
COLOURED = [
    ("Make {the_thing} {new}.", "Make {the_thing} {old}."),
    ("Change {the_thing} from {old} to {new}.", "Change {the_thing} from {new} to {old}."),
    ("{The_thing} is now {new}.", "{The_thing} is now {old}."),
    ("{New} instead of {old}.", "{Old} instead of {new}."),
    ("The {old} {thing} becomes {new}.", "The {new} {thing} becomes {old}."),
]
DONE = [
    ("She is now {new}.", "She is now {old}."),
    ("{New} instead of {old}.", "{Old} instead of {new}."),
    ("Not {old} but {new}.", "Not {new} but {old}."),
]
_SLOT = re.compile(r"\{(\w+)\}")


def pools_of(recipe: str) -> dict[str, list[str]]:
    return read_recipe(FOLDER / f"{recipe}.yaml").quadruples.writer.pools


def with_article(phrase: str) -> str:
    """ "an off-white coat", "grey jeans", "an umbrella"."""
    if re.match(r"(?:an?|one|two|some) ", phrase):
        return phrase
    head = re.split(r" (?:with|of|on|for|in|at|ripped|rolled|high-|cropped|flared|tied|untucked)\b", phrase)[0].split()[
        -1
    ]
    if (head.endswith("s") and not head.endswith("ss")) or head in ("sportswear", "overalls"):
        return phrase
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"


def bare(phrase: str) -> str:
    return re.sub(r"^(?:an?) ", "", phrase)


def named(name: str, phrase: str) -> dict[str, str]:
    phrase = with_article(phrase)
    texts = {name: phrase, f"the_{name}": f"the {bare(phrase)}", f"bare_{name}": bare(phrase)}
    return texts | {key[0].upper() + key[1:]: text[0].upper() + text[1:] for key, text in texts.items()}


def capital(name: str, phrase: str) -> dict[str, str]:
    return {name: phrase, name.capitalize(): phrase[0].upper() + phrase[1:]}


def filled(pools: dict[str, list[str]], phrase: str, rng: random.Random) -> str:
    return _SLOT.sub(lambda slot: filled(pools, rng.choice(pools[slot[1]]), rng), phrase)


def of_people(seed: int = 0) -> Iterator[list[str]]:
    """Of the recipe syncpr."""
    rng = random.Random(seed)
    pools = pools_of("syncpr")
    place = lambda: rng.choice(pools["place"])  # noqa: E731
    for pool in WORN:
        for item in pools[pool]:
            colour, other = rng.sample(pools["colour"], 2)
            new, lower = f"{colour} {item}", f"{other} {'boots' if pool == 'bottom' else 'jeans'}"
            if bare(new).endswith(lower.split()[-1]):
                lower = f"{other} gloves"
            where = place()
            before = f"A woman in {lower} is seen {where}."
            after = f"A woman in {with_article(new)} and {lower} is seen {where}."
            for there, back in ADDED:
                yield [before, after, *(edit.format(**named("new", new)) for edit in (there, back))]
            old = f"{rng.choice(pools['colour'])} {rng.choice([each for each in pools[pool] if each != item])}"
            before = f"A woman in {with_article(old)} and {lower} is seen {where}."
            for there, back in EXCHANGED:
                words = named("new", new) | named("old", old)
                yield [before, after, *(edit.format(**words) for edit in (there, back))]
    for item in pools["accessory"]:
        where = place()
        before = f"A woman in a red coat and blue jeans {where}"
        captions = [f"{before}.", f"{before}, with {with_article(item)}."]
        for there, back in ADDED_AS_IT_IS:
            yield [*captions, *(edit.format(**named("new", item)) for edit in (there, back))]
    for pool in CARRIED:
        for item in pools[pool]:
            where = place()
            before, after = (
                f"A woman in a red coat {where}.",
                f"A woman in a red coat {where} with {with_article(item)}.",
            )
            for there, back in TAKEN_UP:
                yield [before, after, *(edit.format(**named("new", item)) for edit in (there, back))]
    for colour in pools["colour"]:
        for pool in ("top", "coat", "accessory"):
            thing, other = rng.choice(pools[pool]), rng.choice([each for each in pools["colour"] if each != colour])
            captions = [f"A man in {with_article(f'{each} {thing}')} waits {place()}." for each in (other, colour)]
            for there, back in COLOURED:
                words = named("thing", thing) | capital("new", colour) | capital("old", other)
                yield [*captions, *(edit.format(**words) for edit in (there, back))]
    for pool, things in (
        ("fabric", ("coat", "top")),
        ("pattern", ("top", "onepiece")),
        ("detail", ("top",)),
        ("cut", ("bottom",)),
    ):
        for phrase in pools[pool]:
            thing = rng.choice(pools[rng.choice(things)])
            phrase = filled(pools, phrase, rng)
            changed = f"{thing} {phrase}" if pool in ("detail", "cut") else f"{phrase} {thing}"
            captions = [f"A man in {with_article(each)} waits for the bus." for each in (thing, changed)]
            words = named("new", changed) | named("old", f"plain {thing}")
            yield [*captions, "{New}.".format(**words), "{Old}.".format(**words)]
            yield [*captions, "Let him wear {new}.".format(**words), "Let him wear {old}.".format(**words)]
    for whole in pools["whole"]:
        for _ in range(4):
            new = with_article(filled(pools, whole, rng))
            captions = ["A woman in a red coat and blue jeans waits.", f"A woman in {new} waits."]
            yield [*captions, f"Completely different clothes, namely {new}.", "A red coat and blue jeans."]
            yield [
                *captions,
                f"Replace the coat and the jeans by {new}.",
                f"A red coat and blue jeans instead of {new}.",
            ]
    for action in pools["action"]:
        other = rng.choice([each for each in pools["action"] if each != action])
        captions = [f"A woman in a red coat is {each}." for each in (other, action)]
        for there, back in DONE:
            words = capital("new", action) | capital("old", other)
            yield [*captions, *(edit.format(**words) for edit in (there, back))]


def of_scenes(seed: int = 0) -> Iterator[list[str]]:
    """Of the recipe cirhs."""
    rng = random.Random(seed)
    pools = pools_of("cirhs")
    for pool in ("animal", "vehicle", "object", "building", "plant", "dish"):
        for item in pools[pool]:
            new, old = (
                with_article(each) for each in (item, rng.choice([each for each in pools[pool] if each != item]))
            )
            where = rng.choice(pools["place"])
            captions = [f"There is {each} {where}, with a clear sky." for each in (old, new)]
            for there, back in (*EXCHANGED[:5], EXCHANGED[7]):
                words = named("new", new) | named("old", old)
                edits = [edit.format(**words) for edit in (there, back)]
                if all(len(edit.split()) > 2 for edit in edits):
                    yield [*captions, *edits]
    for where in pools["place"]:
        other = rng.choice([each for each in pools["place"] if each != where])
        captions = [f"An old grey dog {each}, seen from above." for each in (other, where)]
        yield [*captions, f"Put the dog {where}.", f"Put the dog {other}."]
    for breed in ("Maine Coon", "Golden Retriever", "Border Collie", "Husky"):
        captions = [f"A {breed} sleeps on a red sofa.", "A black cat sleeps on a red sofa."]
        yield [*captions, f"A black cat instead of the {breed}.", f"Replace the cat with a {breed}."]


def refused(quadruples: Iterable[list[str]], settings: CheckSettings) -> list[tuple[str, list[str]]]:
    """Those that are refused, with the reason."""
    faults = [(fault_of(dict(zip(FIELDS, texts, strict=True)), settings), texts) for texts in quadruples]
    return [(fault, texts) for fault, texts in faults if fault]


def settings_of(recipe: str) -> CheckSettings:
    return read_recipe(FOLDER / f"{recipe}.yaml").quadruples.writer.checks


if __name__ == "__main__":
    for name, quadruples in (("syncpr", list(of_people())), ("cirhs", list(of_scenes()))):
        bad = refused(quadruples, settings_of(name))
        print(f"{name}: {len(bad)} of {len(quadruples)} refused:", Counter(fault for fault, _ in bad))
        swapped = [[*texts[:2], *reversed(texts[2:])] for texts in quadruples]
        found = refused(swapped, settings_of(name))
        print(f"{name}, edits exchanged: {len(found)} refused:", Counter(fault for fault, _ in found))
        for fault, example in random.Random(0).sample(bad, min(12, len(bad))):
            print("   ", fault, example)
