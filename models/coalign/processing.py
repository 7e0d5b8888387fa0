"""The processor of CoAlign on BLIP-2: FAFA's, but for images of any shape and subject."""

from ...processing_fafa import FafaProcessor


class CoAlignProcessor(FafaProcessor):
    """Prepares queries and targets for `CoAlignModel`: as `FafaProcessor`, whose settings it has.

    What it is built with differs: scenes are padded to a square as they are, and not made the shape of a person crop
    first (`FafaImageProcessor(do_person_resize=False)`).
    """

    image_defaults = {"do_person_resize": False}


__all__ = ["CoAlignProcessor"]
