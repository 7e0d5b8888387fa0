"""Word4Per (arXiv 2311.16515, versions 1 to 3): the person of a photograph becomes a word of CLIP's."""

from importlib import import_module

_EXPORTS = {
    "Word4PerConfig": "configuration",
    "Word4PerModel": "modeling",
    "Word4PerOutput": "modeling",
    "Word4PerProcessor": "processing",
    "build_tokenizer": "processing",
    "tiny_start": "tiny",
    "convert_released": "conversion",
    "from_clip": "conversion",
    "cache_features": "cached_features",
    "CachedCollator": "cached_features",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
