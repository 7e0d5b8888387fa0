"""Search: a gallery encoded once, its features kept in a folder, ranked results, and the picture of them."""

from .contact_sheet import RankedImage, RankedQuery, check_sheet, draw_contact_sheet
from .encoding import EncodedImages, encode_images
from .gallery import Gallery, SearchResult
from .photo_folder import find_images
from .store import FeatureStore, verify_store

__all__ = [
    "EncodedImages",
    "FeatureStore",
    "Gallery",
    "RankedImage",
    "RankedQuery",
    "SearchResult",
    "check_sheet",
    "draw_contact_sheet",
    "encode_images",
    "find_images",
    "verify_store",
]
