"""What a query is made of, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

from fafa.retrieval import Query, Term
from fafa.retrieval.queries import MINUS_WEIGHT

RED = Term(caption="in red")


def test_every_image_is_asked_with_every_caption_and_weights_are_multiplied():
    query = Query.of(["a.jpg", ("b.jpg", 0.5)], [("in red", 2), "a hat"], minus=["a bag", ("a scarf", 0.1)])
    asked = [(term.image, term.caption, term.weight) for term in query.terms]
    assert asked == [
        ("a.jpg", "in red", 2),
        ("a.jpg", "a hat", 1),
        ("b.jpg", "in red", 1),
        ("b.jpg", "a hat", 0.5),
        (None, "a bag", -MINUS_WEIGHT),
        (None, "a scarf", -0.1),
    ]


@pytest.mark.parametrize("image", ["a.jpg", Image.new("RGB", (4, 8))], ids=["path", "pixels"])
def test_one_image_of_any_kind_is_one_term(image):
    (term,) = Query.of(image).terms
    assert term.image is image and term.caption is None and term.weight == 1


def test_marks_of_all_rounds_are_kept_once():
    query = Query.of(caption="in red").marked(right=[3], wrong=[1, 2]).marked(right=[3, 4], wrong=[2])
    assert (query.right, query.wrong) == ((3, 4), (1, 2))


REFUSED = {
    "nothing": (lambda: Query.of(), ValueError, "needs an image, a caption or both"),
    "no terms": (lambda: Query(()), ValueError, "needs an image, a caption or both"),
    "an empty list": (lambda: Query.of([], "in red"), ValueError, "image is an empty list"),
    "an empty term": (lambda: Term(), ValueError, "needs an image, a caption or both"),
    "an empty caption": (lambda: Query.of("a.jpg", " "), ValueError, "no word in ' ', expected what the target"),
    "an empty minus": (lambda: Query.of("a.jpg", minus=""), ValueError, "no word in ''"),
    "a caption of another kind": (lambda: Query.of("a.jpg", 5), TypeError, "caption is a int"),
    "nested images": (lambda: Query.of([["a.jpg", "b.jpg"]]), ValueError, "a query has one image, got a list of 2"),
    "a weight of 0": (lambda: Query.of([("a.jpg", 0)]), ValueError, "weight is 0"),
    "a weight of nan": (lambda: Term("a.jpg", weight=float("nan")), ValueError, "weight is nan, expected a finite"),
    "an infinite weight": (lambda: Query.of(("a.jpg", np.inf)), ValueError, "weight is inf"),
    "a weight that is none": (lambda: Term("a.jpg", weight="2"), TypeError, "weight is a str"),
    "a weight of truth": (lambda: Query.of([("a.jpg", True)]), TypeError, "weight is a bool"),
    "a weight below 0": (lambda: Query.of([("a.jpg", -1)]), ValueError, "goes into minus"),
    "minus below 0": (lambda: Query.of("a.jpg", minus=("a bag", -1)), ValueError, "a weight is -1"),
    "minus alone": (lambda: Query.of(minus="a bag"), ValueError, "minus terms alone"),
    "minus outweighs": (lambda: Query.of("a.jpg", minus=[("a bag", 0.6), ("a hat", 0.6)]), ValueError, "sum to -0.2"),
    "minus as an image": (lambda: Query.of("a.jpg", minus=Image.new("RGB", (1, 1))), TypeError, "expected a text"),
    "a term that is none": (lambda: Query(("in red",)), TypeError, "a term is a str"),
    "marked both ways": (lambda: Query((RED,), (1, 2), (2,)), ValueError, "image 2 is marked both right and wrong"),
    "one mark by itself": (lambda: Query((RED,)).marked(right=3), TypeError, "right is a int, expected a list of"),
    "a mark that is none": (lambda: Query((RED,)).marked(right=["a.jpg"]), TypeError, "results of a search, or ids"),
}


@pytest.mark.parametrize(("ask", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_asked_is_refused_in_one_line(ask, error, message):
    with pytest.raises(error, match=message) as refused:
        ask()
    assert "\n" not in str(refused.value)
