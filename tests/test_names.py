"""Names that there are not, and how many there are of a thing."""

from fafa.names import clock, counted, nearest


def test_the_nearest_name_or_those_that_are_known():
    assert nearest("sed", ["seed", "size"]) == "did you mean 'seed'?"
    assert nearest("colour", ["seed", "size"]) == "known: seed, size"
    assert nearest("x", []) == "known: none"
    assert nearest("colour", [str(number) for number in range(30)]).endswith("19 and 10 more")


def test_one_thing_is_not_told_as_several():
    assert [counted(number, "query") for number in (0, 1, 2202)] == ["0 queries", "1 query", "2,202 queries"]
    assert [counted(number, "image") for number in (1, 2)] == ["1 image", "2 images"]
    assert counted(3, "day") == "3 days"


def test_moments_of_a_film_as_a_clock_shows_them():
    assert [clock(seconds) for seconds in (0, 83.9, 36_000)] == ["0:00:00", "0:01:23", "10:00:00"]
