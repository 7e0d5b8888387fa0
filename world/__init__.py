"""The small world of people: a procedural painter, a caption grammar and a writer of SynCPR- and ITCPR-style folders.

`people` holds who and what can be painted, `painter` paints one person, `captions` writes the sentences; these need
only numpy and Pillow. `making` writes a training set and a test set. No model and no library of models is needed.
"""

from .making import WORLD_VERSION, make_world
from .people import TOWNS

__all__ = ["TOWNS", "WORLD_VERSION", "make_world"]
