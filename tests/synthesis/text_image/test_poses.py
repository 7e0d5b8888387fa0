import numpy as np
import pytest
from PIL import Image
from tiny_pose_models import fixed_vitpose, tiny_vitpose
from tiny_vision_models import fixed_detector

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.filtering.detectors import PersonDetector
from fafa.synthesis.text_image.poses import KeypointFilter, judge_pose, widen_box

HEAD, UPPER, HIPS, LOWER = range(5), range(5, 11), range(11, 13), range(13, 17)
PERSON = ("person", 0.9, (0.5, 0.5, 0.4, 0.6))


def pose(visible, threshold=0.3):
    scores = np.full(17, 0.1)
    scores[list(visible)] = 0.8
    return judge_pose(np.full((17, 2), 5.0), scores, (10, 20), threshold)


def test_one_keypoint_of_each_part_is_enough():
    for head in HEAD:
        for upper in UPPER:
            for lower in LOWER:
                assert pose([head, upper, lower]) is None


@pytest.mark.parametrize(
    ("visible", "reason"),
    [
        ([], "head not visible"),
        ([*UPPER, *HIPS, *LOWER], "head not visible"),
        ([*HEAD, *HIPS, *LOWER], "upper body not visible"),
        ([*HEAD, *UPPER, *HIPS], "knees and ankles not visible"),
    ],
)
def test_a_part_without_a_visible_keypoint_is_the_reason(visible, reason):
    assert pose(visible) == reason


def test_keypoints_outside_the_picture_and_unsure_ones_are_not_visible():
    keypoints, scores = np.full((17, 2), 5.0), np.full(17, 0.8)
    keypoints[list(LOWER)] = 5.0, 20.0  # a row below the last
    assert judge_pose(keypoints, scores, (10, 20)) == "knees and ankles not visible"
    keypoints[15] = 5.0, 19.9
    assert judge_pose(keypoints, scores, (10, 20)) is None
    assert judge_pose(keypoints, scores, (10, 20), threshold=0.8) is None
    assert judge_pose(keypoints, scores, (10, 20), threshold=0.81) == "head not visible"


def test_the_cut_has_a_margin_and_stays_in_the_picture():
    assert widen_box((20.4, 10.6, 40.2, 60.6), 0.1, (100, 100)) == (15, 5, 46, 66)
    assert widen_box((1.0, 2.0, 99.0, 98.0), 0.1, (100, 100)) == (0, 0, 100, 100)


@pytest.fixture
def pictures(tmp_path):
    """Five pictures of noise, no two of one size."""
    rng, found = np.random.default_rng(0), []
    for number in range(5):
        file = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (96 + 8 * number, 80, 3), dtype=np.uint8)).save(file)
        found.append((str(number), file))
    return found


def keypoint_filter(folder, people, scores=None, **options):
    detector = fixed_detector(folder / "detector", people)
    model = tiny_vitpose(folder / "pose") if scores is None else fixed_vitpose(folder / "pose", scores)
    return KeypointFilter(
        detector=PersonDetector(model=str(detector), threshold=0.5), model=str(model), batch_size=2, **options
    ).load()


def test_one_person_seen_from_head_to_knees_is_cut_out(tmp_path, pictures):
    kept = list(keypoint_filter(tmp_path, [PERSON, ("dog", 0.9, (0.2, 0.2, 0.2, 0.2))], [0.5] * 17).find(pictures))
    assert [found.id for found in kept] == ["0", "1", "2", "3", "4"]
    first = kept[0]
    assert first.fault is None and first.facts["people"] == 1 and len(first.facts["keypoints"]) == 17
    left, top, right, bottom = first.facts["box"]
    with Image.open(pictures[0][1]) as image:
        assert first.image.tobytes() == image.crop((left, top, right, bottom)).tobytes()
    height = 0.6 * 96  # of the box; the detector sees the picture on a square
    assert bottom - top == pytest.approx(1.1 * height, abs=2)


def test_people_seen_in_part_are_not_kept(tmp_path, pictures):
    scores = np.full(17, 0.5)
    scores[list(LOWER)] = 0.2
    for found in keypoint_filter(tmp_path, [PERSON], scores).find(pictures):
        assert found.image is None and found.fault == "knees and ankles not visible"


@pytest.mark.parametrize(
    ("people", "fault"),
    [([], "no person"), ([PERSON, ("person", 0.8, (0.2, 0.5, 0.2, 0.4))], "several people")],
)
def test_exactly_one_person_is_wanted(tmp_path, pictures, people, fault):
    people = people or [("dog", 0.9, (0.5, 0.5, 0.2, 0.2))]
    for found in keypoint_filter(tmp_path, people, [0.5] * 17).find(pictures):
        assert found.image is None and found.fault == fault


def test_a_result_does_not_depend_on_the_other_pictures(tmp_path, pictures):
    """Random weights: some keypoints show nowhere, and transformers would take their places from a neighbour."""
    poses = keypoint_filter(tmp_path, [PERSON])
    together = [found.facts for found in poses.find(pictures)]
    assert together == [next(poses.find([picture])).facts for picture in pictures]
    assert together == [found.facts for found in poses.find(pictures[::-1])][::-1]
    assert len({str(facts["keypoints"]) for facts in together}) == 5


def test_a_pose_model_of_several_data_sets_works(tmp_path, pictures):
    model = tiny_vitpose(tmp_path / "experts", num_experts=6)
    detector = PersonDetector(model=str(fixed_detector(tmp_path / "detector", [PERSON])), threshold=0.5)
    found = next(KeypointFilter(detector=detector, model=str(model)).load().find(pictures))
    assert len(found.facts["keypoints"]) == 17


def test_a_missing_model_is_one_clear_line(tmp_path):
    detector = PersonDetector(model=str(fixed_detector(tmp_path / "detector", [PERSON])))
    with pytest.raises(SynthesisError, match=r"nowhere: cannot be loaded by AutoImageProcessor") as error:
        KeypointFilter(detector=detector, model=str(tmp_path / "nowhere")).load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"margin": -0.1}, {"batch_size": 0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        KeypointFilter(detector=PersonDetector(model="detector"), **options)
