"""The gallery of `fafa serve --demo`: painted people, encoded once by the tiny model, kept in the user's cache."""

from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants

from .. import TINY_CHECKPOINT
from ..files import read_json
from ..model_folder import load_model
from ..retrieval.fingerprint import dtype_name, feature_settings
from ..retrieval.gallery import Gallery
from ..retrieval.metadata import Entry
from ..retrieval.segment_list import GalleryFolder
from ..world.making import WORLD_VERSION, make_world
from .service import SearchService

_QUERIES, _IMAGES = 60, 300


def demo_cache() -> Path:
    """Where the demo's pictures and features are kept: beside what huggingface_hub keeps."""
    return Path(constants.HF_HOME, "fafa", f"demo-{WORLD_VERSION}")


def demo_service(cache: Path | None = None, num_queries: int = _QUERIES, num_images: int = _IMAGES) -> SearchService:
    """A service over some hundred painted people, with sentences to begin with.

    The first time people are painted and encoded, which takes some ten seconds and shows its progress.

    Args:
        cache: a folder to keep them in; by default `demo_cache()`.

    Raises:
        OSError: the cache cannot be written.
    """
    cache = cache or demo_cache()
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "demo.lock"):
        world = cache / f"people-{num_queries}-{num_images}"
        # For so few images, processes would take longer to start than to paint.
        make_world(world, num_diptychs=1, num_queries=num_queries, gallery_size=num_images, num_workers=1)
        pictures = world / "ITCPR"
        model, processor = load_model(TINY_CHECKPOINT)
        settings = feature_settings(model, processor, "target", model.feature_shape)
        place = cache / f"{world.name}-{settings['model']['fingerprint'][:12]}.index"
        records = [*read_json(pictures / "query.json"), *read_json(pictures / "gallery.json")]
        try:
            gallery = Gallery.load(place, model, processor, pictures)
        except FileNotFoundError:
            GalleryFolder.create(place, settings, dtype_name(model.features_dtype), pictures)
            gallery = Gallery.load(place, model, processor, pictures)
        if len(gallery) == 0:  # all images count at once: there are none, or all
            files = [pictures / record["file_path"] for record in records]
            entries = [Entry(camera=record["datasets"], tags={"person": record["person_id"]}) for record in records]
            gallery.add(files, entries)
    ids = gallery.ids.tolist()
    begin_with = [(ids[row], record["caption"]) for row, record in enumerate(records) if "caption" in record]
    return SearchService(gallery, name="painted people", begin_with=begin_with)
