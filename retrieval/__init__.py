"""Search: a gallery encoded once, its features kept in a folder, ranked results, and the picture of them."""

from .contact_sheet import RankedImage, RankedQuery, check_sheet, draw_contact_sheet
from .encoding import EncodedImages, encode_images
from .explaining import HeatMap, WordDrop, heat_map, word_drops
from .explanation_sheet import draw_explanation
from .gallery import Gallery, SearchResult
from .photo_folder import find_images
from .store import FeatureStore, verify_store

__all__ = [
    "EncodedImages",
    "FeatureStore",
    "Gallery",
    "HeatMap",
    "RankedImage",
    "RankedQuery",
    "SearchResult",
    "WordDrop",
    "check_sheet",
    "draw_contact_sheet",
    "draw_explanation",
    "encode_images",
    "find_images",
    "heat_map",
    "verify_store",
    "word_drops",
]
