"""What filters can ask of a gallery: fields and tags, with the values that occur."""

from functools import lru_cache

from ..retrieval.metadata import FIELDS, NUMBER, TEXT
from ..retrieval.state import GalleryState
from .answers import FilterField

_MOST_VALUES = 50  # that are listed of one field
_SIDES = ("left", "top", "right", "bottom")


@lru_cache(maxsize=2)
def filter_fields(state: GalleryState) -> list[FilterField]:
    """The fields and tags of which at least one image has a value, but secret ones; sides of boxes without theirs."""
    kinds = {name: {kind} for name, kind in FIELDS.items()} | state.tags
    fields = []
    for name, of_field in kinds.items():
        if is_secret(name, state):
            continue
        found = [segment.metadata.values_of(name, _MOST_VALUES) for segment in state.segments]
        ends = [end for _, *both in found for end in both if end is not None]
        if not ends:
            continue
        values = {value for of_segment, _, _ in found for value in of_segment}
        is_listed = (
            name not in _SIDES and len(values) <= _MOST_VALUES and all(listed for listed, end, _ in found if end)
        )
        ends.sort(key=_in_order)
        fields.append(
            FilterField(
                name=name,
                kind=TEXT if of_field == {TEXT} else NUMBER if of_field == {NUMBER} else "either",
                values=sorted(values, key=_in_order) if is_listed else [],
                least=ends[0],
                most=ends[-1],
            )
        )
    return fields


def is_secret(name: str, state: GalleryState) -> bool:
    """Whether nobody may ask about a field: whole paths, which say where on this machine images lie."""
    return name == "path" and state.images_folder is None


def _in_order(value: str | float) -> tuple[bool, str | float]:
    return isinstance(value, str), value
