"""CoAlign: composed image retrieval by global alignment and local reasoning (arXiv 2507.05970), on BLIP-2 or CLIP.

Nobody has published CoAlign's code or formulas. What is here is our reading of them; `losses.py` says where it is from.

    configuration.py  modeling.py  processing.py      on BLIP-2's vision tower and Q-Former, as FAFA
    clip.py           the same losses on CLIP's two towers, which reviewers of the paper asked for
    convert.py        fafa convert coalign: folders to start from, of BLIP-2's or CLIP's weights
"""

from .clip import CoAlignClipConfig, CoAlignClipModel, CoAlignClipProcessor
from .configuration import CoAlignConfig
from .losses import CoAlignOutput
from .modeling import CoAlignModel
from .processing import CoAlignProcessor

__all__ = [
    "CoAlignClipConfig",
    "CoAlignClipModel",
    "CoAlignClipProcessor",
    "CoAlignConfig",
    "CoAlignModel",
    "CoAlignOutput",
    "CoAlignProcessor",
]
