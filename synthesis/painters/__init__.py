"""Image models: pipelines of diffusers, image servers, and the procedural painter of the small world."""

from .diffusion import DiffusionPainter
from .image_server import ImageServer
from .world import WorldPainter

__all__ = ["DiffusionPainter", "ImageServer", "WorldPainter"]
