"""Names that there are not."""

from fafa.names import nearest


def test_the_nearest_name_or_those_that_are_known():
    assert nearest("sed", ["seed", "size"]) == "did you mean 'seed'?"
    assert nearest("colour", ["seed", "size"]) == "known: seed, size"
    assert nearest("x", []) == "known: none"
    assert nearest("colour", [str(number) for number in range(30)]).endswith("19 and 10 more")
