"""Who goes through a film: tracks of known people, where they end, and which crops stand for them."""

import numpy as np
import pytest
from painted_scenes import GROUND, SIZE, TOP, WIDTH, BarDetector
from PIL import Image, ImageFilter

from fafa.film_reading import Frame
from fafa.people import FoundPerson
from fafa.people.tracks import LOST_AFTER, Sighting, follow_people, is_cut, sharpness_of, thinned

pytest.importorskip("supervision", reason="people are followed by supervision: pip install '.[people]'")

RATE = 5.0
RED, BLUE = (200, 20, 20), (20, 20, 220)


def frame_of(number, *bars, ground=GROUND, blur=0):
    """Bars of 70 pixels' height, each given as (left, colour)."""
    pixels = np.full((SIZE[1], SIZE[0], 3), ground, np.uint8)
    for left, colour in bars:
        pixels[TOP : TOP + 70, max(0, left) : left + WIDTH] = colour
        pixels[TOP : TOP + 15, max(0, left + 6) : left + 18] = 255
    image = Image.fromarray(pixels)
    return Frame(number / RATE, image.filter(ImageFilter.GaussianBlur(blur)) if blur else image)


def follow(frames, **options):
    options = {"rate": RATE, "margin": 0.0, **options}
    return sorted(follow_people(frames, BarDetector(), **options), key=lambda track: track.number)


def test_two_people_who_walk_are_two_tracks():
    frames = [frame_of(number, (10 + 5 * number, RED), (200 - 4 * number, BLUE)) for number in range(15)]
    first, second = follow(frames)
    assert (first.number, second.number) == (1, 2)
    assert (first.first, first.last, first.num_sightings) == (0.0, pytest.approx(2.8), 15)
    for track, start, step in ((first, 10, 5), (second, 200, -4)):
        assert len(track.crops) == 3
        for seen in track.crops:
            left = start + step * round(RATE * seen.time)
            assert seen.box == (left, TOP, left + WIDTH, TOP + 70)
            assert seen.image.size == (WIDTH, 70)
            assert np.asarray(seen.image)[50, 12].tolist() == list(RED if track is first else BLUE)


def test_who_is_hidden_for_a_moment_is_still_the_same():
    frames = [frame_of(number, *([] if 5 <= number < 8 else [(50 + number, RED)])) for number in range(15)]
    [track] = follow(frames)
    assert track.num_sightings == 12


def test_who_comes_back_later_gets_a_new_track():
    gone = round(RATE * LOST_AFTER) + 2
    frames = [frame_of(number, *([] if 5 <= number < 5 + gone else [(50, RED)])) for number in range(12 + gone)]
    assert [track.number for track in follow(frames)] == [1, 2]


def test_tracks_end_where_frames_are_missing():
    """Broken packets, or a recording that paused: another person may stand there now."""
    frames = [frame_of(number, (50, RED)) for number in (*range(5), *range(30, 35))]
    assert [(track.first, track.last) for track in follow(frames)] == [(0.0, 0.8), (6.0, 6.8)]


class Detector:
    """Finds all that is red or blue, wherever it is."""

    def find(self, images):
        found = []
        for image in images:
            pixels = np.asarray(image).astype(int)
            rows, columns = np.nonzero(np.abs(pixels[..., 0] - pixels[..., 2]) > 100)
            found.append([FoundPerson((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), 0.9)])
        return found


def test_tracks_end_at_a_cut():
    """In the next shot another person stands where one stood, and ByteTrack sees only places."""
    frames = [frame_of(number, (50, RED)) for number in range(6)]
    frames += [frame_of(number, (50, BLUE), ground=210) for number in range(6, 12)]
    first, second = follow_people(frames, Detector(), RATE, margin=0.0)
    assert (first.last, second.first) == (1.0, 1.2)
    for track, colour in ((first, RED), (second, BLUE)):
        assert all(np.asarray(seen.image)[20, 12].tolist() == list(colour) for seen in track.crops)


def test_a_cut_is_another_picture_and_walking_or_a_cloud_is_none():
    before, moved = frame_of(0, (50, RED)).image, frame_of(0, (120, RED), (10, BLUE)).image
    assert not is_cut(before, before) and not is_cut(before, moved)
    assert not is_cut(before, frame_of(0, (50, RED), ground=GROUND - 8).image)
    assert is_cut(before, frame_of(0, (50, RED), ground=40).image)


def test_numbers_go_on_where_the_last_piece_ended():
    [track] = follow([frame_of(number, (50, RED)) for number in range(5)], first_number=8)
    assert track.number == 8


def test_nobody_is_no_track():
    assert follow([frame_of(number) for number in range(5)]) == [] == follow([])


def test_the_sharpest_crops_stand_for_a_track_spread_over_time():
    sharp = {2, 13, 25}
    frames = [frame_of(number, (50 + number, RED), blur=0 if number in sharp else 1.5) for number in range(30)]
    [track] = follow(frames)
    assert {round(RATE * seen.time) for seen in track.crops} == sharp


def test_crops_that_are_cut_by_the_edge_or_hidden_come_last():
    frames = [frame_of(number, (-18 + 6 * number, RED), blur=0 if number < 3 else 1.0) for number in range(20)]
    [track] = follow(frames, num_crops=1)
    assert track.crops[0].box[0] > 0


def test_a_small_crop_is_not_sharp():
    image = frame_of(0, (50, RED)).image
    assert sharpness_of(image) > sharpness_of(image.resize((60, 25)))
    assert sharpness_of(image) > sharpness_of(image.filter(ImageFilter.GaussianBlur(2)))


def test_few_of_many_are_spread_over_time():
    image = Image.new("RGB", (4, 4))
    seen = [Sighting(float(time), (0, 0, 4, 4), 1.0, image, (True, 1.0)) for time in range(40)]
    kept = []
    for sighting in seen:  # as they come, with few in memory
        kept = thinned([*kept, sighting], 6)
        assert len(kept) <= 6
    times = [sighting.time for sighting in thinned(kept, 3)]
    assert times == sorted(times) and min(np.diff(times)) >= 8
    assert thinned(seen[:2], 3) == seen[:2]
