"""Painted films: what is told of who is where is what is painted."""

import numpy as np
import pytest

from fafa.world.walking import plan_film


@pytest.fixture(scope="module")
def film():
    return plan_film(np.random.default_rng(0), num_people=2, walks_each=2, seconds=16, size=(240, 120))


def test_the_boxes_are_where_the_picture_differs_from_the_empty_place(film):
    walk = film.walks[0]
    frame = film.paint((walk.begins + walk.ends) / 2)
    differs = np.abs(np.asarray(frame.image).astype(int) - np.asarray(film.place)).max(axis=2) > 30
    for left, top, right, bottom in frame.boxes.values():
        inside = differs[top:bottom, left:right]
        assert inside.mean() > 0.3 and inside.any(axis=1).mean() > 0.9
        differs[top:bottom, left:right] = False
    assert frame.boxes and not differs.any()


def test_people_walk_from_side_to_side_and_nobody_twice_at_a_time(film):
    for number, walk in enumerate(film.walks):
        middles = [
            (box[0] + box[2]) / 2
            for time in np.linspace(walk.begins, walk.ends, 9)[1:-1]
            if (box := film.paint(time).boxes.get(number))
        ]
        assert len(middles) >= 5 and (np.diff(middles) > 0).all() == walk.is_rightwards
        assert not any(
            other.person == walk.person and other.begins < walk.ends and walk.begins < other.ends
            for other in film.walks
            if other is not walk
        )


def test_the_same_seed_paints_the_same_film(film):
    again = plan_film(np.random.default_rng(0), num_people=2, walks_each=2, seconds=16, size=(240, 120))
    assert again.walks == film.walks and again.paint(3.0).image.tobytes() == film.paint(3.0).image.tobytes()


def test_a_film_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="3 walks of one person take up to 21 s, not 20 s"):
        plan_film(np.random.default_rng(0), num_people=2, walks_each=3, seconds=20)
