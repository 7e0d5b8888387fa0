"""What is asked of a gallery: photographs and sentences with weights, things not wanted, and results judged so far."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from types import NoneType
from typing import Any

# How much a minus term counts beside terms that count 1. With more, what is wanted no longer decides:
# benchmarks/results/query_terms.md has the curve.
MINUS_WEIGHT = 0.3


@dataclass(frozen=True)
class Term:
    """One thing wanted. An image and a caption together are one composed query of the model, not two terms.

    Args:
        image: the reference image: a path, a PIL image, whatever else `open_image` takes, or a `SearchResult` ("like
            this result").
        caption: what the target looks like, or how it differs from the image.
        weight: how much it counts beside the query's other terms; below 0 for what is not wanted.

    Raises:
        ValueError: neither image nor caption, several images in one, a caption without a word, a weight of 0, NaN or
            infinity.
        TypeError: a caption that is no text, a weight that is no number.
    """

    image: Any = None
    caption: str | None = None
    weight: float = 1.0

    def __post_init__(self):
        if self.image is None and self.caption is None:
            raise ValueError("a query needs an image, a caption or both; neither was given")
        if isinstance(self.image, (list, tuple)):
            raise ValueError(f"a query has one image, got a list of {len(self.image)}; give each a term of its own")
        if not isinstance(self.caption, (str, NoneType)):
            raise TypeError(f"caption is a {type(self.caption).__name__}, expected one caption (str)")
        if self.caption is not None and not self.caption.strip():
            raise ValueError(f"caption: no word in {self.caption!r:.60}, expected what the target looks like")
        _check_weight(self.weight)


@dataclass(frozen=True)
class Query:
    """All that is asked in one search.

    Example:
        query = Query.of(["front.jpg", "back.jpg"], "in a red coat", minus="a backpack")
        [results] = gallery.search_many([query])
        query = query.marked(right=[results[1]], wrong=[results[0], results[2]])
        [results] = gallery.search_many([query])  # the second round

    Args:
        terms: see `Term`.
        right: ids of images that the searcher has marked right, in all rounds so far.
        wrong: of those marked wrong.
        left_out: of those that are not to be found, and say nothing else, such as the query's own photograph.

    Raises:
        ValueError: no terms, minus terms alone, weights whose sum is not above 0, an image marked right and wrong.
        TypeError: a term that is none.
    """

    terms: tuple[Term, ...]
    right: tuple[int, ...] = ()
    wrong: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.terms:
            raise ValueError("a query needs an image, a caption or both; neither was given")
        if strange := [term for term in self.terms if not isinstance(term, Term)]:
            raise TypeError(f"a term is a {type(strange[0]).__name__}, expected a Term")
        weights = [term.weight for term in self.terms]
        if max(weights) < 0:
            raise ValueError("minus terms alone say whom not to find: add an image or a caption of whom to find")
        if (total := math.fsum(weights)) <= 0:
            raise ValueError(
                f"the weights of the terms sum to {total:g}, so the minus terms outweigh what is wanted: lower their "
                "weights, or raise those of the others"
            )
        if both := sorted(set(self.right) & set(self.wrong)):
            raise ValueError(f"image {both[0]} is marked both right and wrong: take one of the marks back")

    @property
    def kind(self) -> str:
        """As the model knows it, "image+caption", "caption" or "image"; or "several terms", or "marks"."""
        if self.right or self.wrong:
            return "marks"
        if len(self.terms) > 1:
            return "several terms"
        parts = {"image": self.terms[0].image, "caption": self.terms[0].caption}
        return "+".join(name for name, part in parts.items() if part is not None)

    @classmethod
    def of(cls, image: Any = None, caption: Any = None, minus: Any = None) -> "Query":
        """A query as `Gallery.search` takes it.

        Args:
            image: one image, or a list of several, each by itself or as a pair `(image, weight)`.
            caption: one caption or several, likewise. Every image is asked together with every caption; their weights
                are multiplied.
            minus: captions of what is not wanted, likewise: `"a backpack"`, `[("a hat", 0.5)]`. By itself each weighs
                `MINUS_WEIGHT`.

        Raises:
            ValueError, TypeError: as for `Term` and `Query`; a minus term with a weight below 0, or that is no text.
        """
        images, captions = _weighted("image", image, 1.0), _weighted("caption", caption, 1.0)
        unwanted = _weighted("minus", minus, MINUS_WEIGHT)
        if strange := [thing for thing, _ in unwanted if not isinstance(thing, str)]:
            kind = type(strange[0]).__name__
            raise TypeError(f"minus: a {kind}, expected a text; an image is one by Term(image, weight=-{MINUS_WEIGHT})")
        if negative := [weight for _, weight in (*images, *captions, *unwanted) if weight < 0]:
            raise ValueError(f"a weight is {negative[0]:g}, expected one above 0; what is not wanted goes into minus")
        if not images and not captions and not unwanted:
            raise ValueError("a query needs an image, a caption or both; neither was given")
        terms = [
            Term(thing, words, of_thing * of_words)
            for thing, of_thing in images or [(None, 1.0)]
            for words, of_words in captions or [(None, 1.0)]
            if thing is not None or words is not None
        ]
        return cls((*terms, *(Term(caption=words, weight=-weight) for words, weight in unwanted)))

    def marked(self, right: Iterable[Any] = (), wrong: Iterable[Any] = ()) -> "Query":
        """The query of the next round, with further results, or ids of images, marked right or wrong.

        How they count: `feedback.rocchio`. Images marked wrong are no longer found.
        """
        for name, marked in (("right", right), ("wrong", wrong)):
            if not isinstance(marked, Iterable):
                raise TypeError(f"{name} is a {type(marked).__name__}, expected a list of results, or of ids")
        right, wrong = (
            tuple(dict.fromkeys([*before, *map(_id_of, now)]))
            for before, now in ((self.right, right), (self.wrong, wrong))
        )
        return replace(self, right=right, wrong=wrong)


def _weighted(name: str, things: Any, weight: float) -> list[tuple[Any, float]]:
    """One thing or several, some of them pairs with a weight, as pairs."""
    if things is None:
        return []
    if isinstance(things, (list, tuple)) and not things:
        raise ValueError(f"{name} is an empty list: nothing of it would be asked; leave it out, or fill it")
    if not isinstance(things, (list, tuple)) or _is_pair(things):
        things = [things]
    pairs = [thing if _is_pair(thing) else (thing, weight) for thing in things]
    for _, of_thing in pairs:
        _check_weight(of_thing)
    return pairs


def _is_pair(thing: Any) -> bool:
    return isinstance(thing, tuple) and len(thing) == 2 and isinstance(thing[1], Real)


def _check_weight(weight: Any) -> None:
    if not isinstance(weight, Real) or isinstance(weight, bool):
        raise TypeError(f"weight is a {type(weight).__name__}, expected a number")
    if not math.isfinite(weight):
        raise ValueError(f"weight is {weight}, expected a finite number")
    if weight == 0:
        raise ValueError("weight is 0, so the term would not count: leave it out")


def _id_of(marked: Any) -> int:
    number = marked if isinstance(marked, Integral) else getattr(marked, "id", None)
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise TypeError(f"marked: a {type(marked).__name__}, expected results of a search, or ids of images")
    return int(number)


def check_queries(queries: Sequence[Query]) -> None:
    """Refuses what is no list of queries, by a TypeError, or an empty one, by a ValueError."""
    if isinstance(queries, Query) or not isinstance(queries, Sequence):
        raise TypeError(f"queries is a {type(queries).__name__}, expected a list of Query")
    if not queries:
        raise ValueError("queries is empty: nothing is asked")
    if strange := [query for query in queries if not isinstance(query, Query)]:
        raise TypeError(f"a query is a {type(strange[0]).__name__}, expected a Query, such as Query.of(image, caption)")
