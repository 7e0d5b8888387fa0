"""Who goes through a film: tracks of known people, where they end, and which crops stand for them."""

import numpy as np
import pytest
from painted_scenes import GROUND, SIZE, TOP, WIDTH, BarDetector
from PIL import Image, ImageFilter

from fafa.film_reading import Frame
from fafa.people import FoundPerson
from fafa.people.tracks import LOST_AFTER, Sighting, _Following, follow_people, is_cut, sharpness_of, thinned

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


def left_to_right(number):
    """Where one is who starts at the left."""
    return 10 + 10 * number


def right_to_left(number):
    return 206 - 10 * number


class Answers:
    """Finds who is told, of the whole height of a bar, whatever the picture shows."""

    def __init__(self, *lefts_each):
        self.lefts_each = iter(lefts_each)

    def find(self, images):
        return [[box_at(left) for left in next(self.lefts_each)] for _ in images]


def box_at(left):
    return FoundPerson((float(left), float(TOP), float(left + WIDTH), float(TOP + 70)), 0.9)


def crossing(one, other, num=20):
    """Frames, and a detector, of two who walk past each other; in the middle only the nearer, first one is found."""
    frames, lefts_each = [], []
    for number in range(num):
        near, far = left_to_right(number), right_to_left(number)
        frames.append(frame_of(number, (far, other), (near, one)))
        lefts_each.append([near, far] if abs(near - far) > 10 else [near])
    return frames, Answers(*lefts_each)


def turning(one, other):
    """They meet in the middle and go back: to places alone, as if they had gone on."""
    frames, lefts_each = [], []
    for number in range(20):
        near, far = (place(min(number, 19 - number)) for place in (left_to_right, right_to_left))
        frames.append(frame_of(number, (far, other), (near, one)))
        lefts_each.append([near, far])
    return frames, Answers(*lefts_each)


def colours_of(track):
    """What clothes the crops of a track show, at the hem."""
    return {tuple(np.asarray(seen.image)[60, 12].tolist()) for seen in track.crops}


@pytest.mark.parametrize("film", [crossing, turning])
@pytest.mark.parametrize("rate", [2.0, RATE, 10.0])
def test_who_meet_in_different_clothes_keep_their_tracks(film, rate):
    """ByteTrack goes by places alone, and takes one of two who meet for the other."""
    frames, detector = film(RED, BLUE)
    tracks = list(follow_people([Frame(seen.time * RATE / rate, seen.image) for seen in frames], detector, rate, 0.0))
    assert sorted(map(colours_of, tracks), key=sorted) == [{BLUE}, {RED}]
    assert all(track.num_sightings > 15 for track in tracks)


def test_where_clothes_are_alike_places_decide():
    frames, detector = crossing(RED, RED)
    tracks = list(follow_people(frames, detector, RATE, 0.0))
    assert len(tracks) == 2
    for track in tracks:
        steps = np.diff([seen.box[0] for seen in track.crops])
        assert all(steps > 0) or all(steps < 0)


def exchanged(monkeypatch, at, for_good=True):
    """From a step on, ByteTrack takes the first of two for the second; or in this step alone."""
    by_places, steps = _Following._by_places, iter(range(1000))

    def of(self, found):
        numbers, step = by_places(self, found), next(steps)
        is_wrong = len(numbers) == 2 and (step >= at if for_good else step == at)
        return dict(zip(numbers, reversed(numbers.values()), strict=True)) if is_wrong else numbers

    monkeypatch.setattr(_Following, "_by_places", of)


@pytest.mark.parametrize("for_good", [True, False])
def test_an_exchanged_pair_is_put_right(monkeypatch, for_good):
    exchanged(monkeypatch, 8, for_good)
    tracks = follow([frame_of(number, (80, RED), (112, BLUE)) for number in range(16)], num_crops=8)
    assert [colours_of(track) for track in tracks] == [{RED}, {BLUE}]
    assert [track.num_sightings for track in tracks] == [16, 16]


def test_a_track_ends_where_somebody_else_goes_on_with_it():
    """Not at once: behind a post somebody looks different, too."""
    frames = [frame_of(number, (80 + 2 * number, RED if number < 10 else BLUE)) for number in range(20)]
    assert [colours_of(track) for track in follow(frames, num_crops=8)] == [{RED}, {BLUE}]
    frames = [frame_of(number, (80 + 2 * number, BLUE if number in (9, 10) else RED)) for number in range(20)]
    [track] = follow(frames, num_crops=8)
    assert track.num_sightings == 20 and colours_of(track) == {RED}


def test_whose_colours_change_slowly_is_one_track():
    """From sun to shade, from yellow light to blue."""
    colours = [(200 - 3 * number, 60, 20 + 2 * number) for number in range(50)]
    [track] = follow([frame_of(number, (50 + 3 * number, colour)) for number, colour in enumerate(colours)])
    assert track.num_sightings == 50


def test_who_steps_into_the_shade_is_one_track():
    colours = [RED if number < 8 else tuple(int(0.6 * light) for light in RED) for number in range(20)]
    [track] = follow([frame_of(number, (50 + 3 * number, colour)) for number, colour in enumerate(colours)])
    assert track.num_sightings == 20


def test_looks_are_not_learnt_from_boxes_that_another_covers():
    """Nor do they stand for a track that has others."""
    frames, lefts_each = [], []
    for number in range(20):  # blue comes, stands before red for a while, and goes
        near = 50 + max(8, 60 - 10 * number, 10 * number - 140)
        frames.append(frame_of(number, (50, RED), (near, BLUE)))
        lefts_each.append([near, 50])
    red, blue = sorted(follow_people(frames, Answers(*lefts_each), RATE, 0.0, 8), key=colours_of, reverse=True)
    assert (colours_of(red), colours_of(blue)) == ({RED}, {BLUE})


def test_the_change_of_speed_that_bytetrack_expects_can_be_set():
    """By an attribute that is no promise of supervision's; without it, tracks of few frames a second break."""
    from supervision.tracker.byte_tracker.kalman_filter import KalmanFilter

    tracker, plain = _Following(RATE, 0.0, 3, 1).tracker, KalmanFilter()
    here = np.array([100.0, 100.0, 0.4, 200.0])
    for motion in (tracker.kalman_filter, tracker.shared_kalman):
        (_, loose), (_, tight) = motion.initiate(here), plain.initiate(here)
        assert loose[4, 4] == pytest.approx(9 * tight[4, 4])


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
