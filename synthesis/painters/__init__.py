"""Image models: pipelines of diffusers and image servers. The painters that need no model are in `stand_ins/`."""

from .diffusion import DiffusionPainter
from .image_server import ImageServer

__all__ = ["DiffusionPainter", "ImageServer"]
