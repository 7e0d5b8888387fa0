"""Search: a gallery encoded once, its features kept in a folder, ranked results, and the picture of them."""

from .asking import PhotoResult
from .calibration import Calibration
from .contact_sheet import RankedImage, RankedQuery, check_sheet, draw_contact_sheet
from .conversion import convert_store
from .encoding import EncodedImages, encode_images
from .gallery import Gallery
from .metadata import Entry
from .photo_folder import find_images
from .queries import Query, Term
from .searching import SearchResult
from .store import FeatureStore, verify_store

__all__ = [
    "Calibration",
    "EncodedImages",
    "Entry",
    "FeatureStore",
    "Gallery",
    "PhotoResult",
    "Query",
    "RankedImage",
    "RankedQuery",
    "SearchResult",
    "Term",
    "check_sheet",
    "convert_store",
    "draw_contact_sheet",
    "encode_images",
    "find_images",
    "verify_store",
]
