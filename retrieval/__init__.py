"""Search: a gallery encoded once, ranked results, and the picture of them."""

from .contact_sheet import RankedImage, RankedQuery, draw_contact_sheet
from .gallery import Gallery, SearchResult, find_images

__all__ = ["Gallery", "RankedImage", "RankedQuery", "SearchResult", "draw_contact_sheet", "find_images"]
