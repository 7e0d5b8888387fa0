"""Clusters of a gallery's people: who is together, how they are numbered and found, and what is refused."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fafa.people.cluster_sheet import draw_cluster_sheet
from fafa.people.clusters import NO_CLUSTER, cluster_people
from fafa.retrieval import Entry, Gallery
from fafa.retrieval.segment_list import GalleryFolder

pytest.importorskip("sklearn", reason="people are clustered by scikit-learn: pip install '.[people]'")


def features_of(model, people, seed=0, spread=0.1):
    """Features of images, each near the direction of its person."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(max(people) + 1, 1, model.feature_shape[1], generator=generator)
    noise = torch.randn(len(people), *model.feature_shape, generator=generator)
    return F.normalize(directions[people] + spread * noise, dim=2)


def gallery_of(model, processor, folder, people, entries=None):
    place = GalleryFolder.create(folder, settings_of(model, processor), "float32")
    entries = entries or [Entry(f"/photos/{number}.jpg", f"{number}") for number in range(len(people))]
    with place.writing() as writer:
        for start in range(0, len(people), 10):  # several segments
            part = slice(start, start + 10)
            writer.append(features_of(model, people)[part], entries[part])
            writer.commit()
    return Gallery.load(folder, model, processor, check_images=False)


def settings_of(model, processor):
    from fafa.retrieval.fingerprint import feature_settings

    return feature_settings(model, processor, "target", model.feature_shape, torch.float32)


PEOPLE = [0] * 6 + [1] * 9 + [2] * 4 + [3]  # the last one was seen once


def tags_of(gallery):
    gallery.refresh()
    rows = gallery.state.living_rows(torch.arange(len(gallery)))
    return [entry.tags["cluster"] for entry in gallery.state.entries(rows)]


def test_people_are_together_the_largest_group_first_and_who_was_seen_once_is_in_none(model, processor, tmp_path):
    gallery = gallery_of(model, processor, tmp_path / "index", PEOPLE)
    clusters = cluster_people(tmp_path / "index", least=3)
    assert tags_of(gallery) == [1] * 6 + [0] * 9 + [2] * 4 + [NO_CLUSTER]
    assert [(one.number, one.num_seen, one.num_files) for one in clusters] == [
        (0, 9, 9),
        (1, 6, 6),
        (2, 4, 4),
        (NO_CLUSTER, 1, 1),
    ]
    assert clusters[2].ids == gallery.ids[15:19].tolist()


def test_a_filter_finds_a_cluster(model, processor, tmp_path):
    gallery = gallery_of(model, processor, tmp_path / "index", PEOPLE)
    cluster_people(tmp_path / "index", least=3)
    gallery.refresh()
    found = gallery.search(caption="a man", where="cluster == 1", top=20)
    assert sorted(result.index for result in found) == list(range(6))
    assert len(gallery.search(caption="a man", where="cluster == -1")) == 1


def test_a_track_counts_once_and_stays_together(model, processor, tmp_path):
    """Three crops of one track are not three people seen: each track would be a cluster of its own."""
    people = [person for person in (0, 0, 0, 1, 1, 1, 2) for _ in range(3)]
    entries = [
        Entry("/films/a.mp4", "film", time=float(number), tags={"track": number // 3}) for number in range(len(people))
    ]
    gallery = gallery_of(model, processor, tmp_path / "index", people, entries)
    clusters = cluster_people(tmp_path / "index", least=3)
    assert tags_of(gallery) == [0] * 9 + [1] * 9 + [NO_CLUSTER] * 3
    assert [(one.num_seen, len(one.ids), one.num_files, len(one.typical)) for one in clusters] == [
        (3, 9, 1, 3),
        (3, 9, 1, 3),
        (1, 3, 1, 1),
    ]


def test_a_copy_of_a_film_is_no_further_file(model, processor, tmp_path):
    people = [number // 3 for number in range(6)] * 2
    entries = [
        Entry(f"/films/{'a' if place < 6 else 'copy'}.mp4", "film", time=1.0, tags={"track": place % 6})
        for place in range(12)
    ]
    gallery_of(model, processor, tmp_path / "index", people, entries)
    clusters = cluster_people(tmp_path / "index", least=3)
    assert [(one.num_seen, len(one.ids), one.num_files) for one in clusters] == [(3, 6, 1), (3, 6, 1)]


def test_again_after_changes(model, processor, tmp_path):
    gallery = gallery_of(model, processor, tmp_path / "index", PEOPLE)
    cluster_people(tmp_path / "index", least=3)
    gallery.refresh()
    gallery.delete(where="cluster == 0")
    cluster_people(tmp_path / "index", least=3)
    assert tags_of(gallery) == [0] * 6 + [1] * 4 + [NO_CLUSTER]
    assert [entry.path for entry in gallery.state.entries([0])] == ["/photos/0.jpg"]  # all else stays


def test_the_same_gallery_gives_the_same_clusters(model, processor, tmp_path):
    people = [number % 8 for number in range(60)]
    tags = []
    for name in ("a", "b"):
        gallery = gallery_of(model, processor, tmp_path / name, people)
        cluster_people(tmp_path / name, least=3)
        tags.append(tags_of(gallery))
    assert tags[0] == tags[1] and len(set(tags[0])) == 8


def test_too_few_people_are_refused_by_name(model, processor, tmp_path):
    gallery_of(model, processor, tmp_path / "index", PEOPLE[:5])
    with pytest.raises(ValueError, match=r"index holds 5 images .* seen 5 times, and two clusters of 3 need 6"):
        cluster_people(tmp_path / "index", least=3)
    with pytest.raises(ValueError, match="least is 1, expected a whole number from 2"):
        cluster_people(tmp_path / "index", least=1)
    GalleryFolder.create(tmp_path / "empty", settings_of(model, processor), "float32")
    with pytest.raises(ValueError, match="seen 0 times"):
        cluster_people(tmp_path / "empty", least=3)
    with pytest.raises(FileNotFoundError, match="absent"):
        cluster_people(tmp_path / "absent")


def test_the_sheet_shows_who_can_be_opened_and_tells_of_others(model, processor, tmp_path, caplog):
    from PIL import Image

    from fafa.retrieval.identity import describe_image
    from fafa.retrieval.metadata import entry_of

    entries = []
    for number in range(len(PEOPLE)):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (40, 80), (12 * number, 40, 40)).save(file)
        entries.append(entry_of(describe_image(file, "photo")))
    gallery_of(model, processor, tmp_path / "index", PEOPLE, entries)
    clusters = cluster_people(tmp_path / "index", least=3)
    (tmp_path / "0.png").unlink()
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")  # another one than was encoded
    sheet = draw_cluster_sheet(clusters, tmp_path / "people.png", title="Holiday")
    assert "2 images not drawn, gone, changed or unreadable" in caplog.text
    pixels = np.asarray(sheet)
    assert (tmp_path / "people.png").is_file() and sheet.height > 4 * 150
    for number in (6, 15, 19):  # one of each cluster
        assert (np.abs(pixels.astype(int) - (12 * number, 40, 40)).max(axis=2) <= 3).sum() > 500
    for number in (0, 1):
        assert (np.abs(pixels.astype(int) - (12 * number, 40, 40)).max(axis=2) <= 3).sum() < 50
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_cluster_sheet([])
    with pytest.raises(ValueError, match="says no format for a picture"):
        draw_cluster_sheet(clusters, tmp_path / "people.txt")
