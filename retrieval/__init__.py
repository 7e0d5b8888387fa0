"""Search: a gallery encoded once, its features kept in a folder, ranked results, and the picture of them."""

from .contact_sheet import RankedImage, RankedQuery, draw_contact_sheet
from .encoding import EncodedImages, encode_images
from .gallery import Gallery, SearchResult, find_images
from .store import FeatureStore, verify_store

__all__ = [
    "EncodedImages",
    "FeatureStore",
    "Gallery",
    "RankedImage",
    "RankedQuery",
    "SearchResult",
    "draw_contact_sheet",
    "encode_images",
    "find_images",
    "verify_store",
]
