"""Detectors: of transformers, from folders that the real loaders read, and OpenCV's."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tiny_vision_models import LABELS, fixed_detector, tiny_detr, tiny_rtdetr
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from fafa.people import Detector, load_detector, people_in
from fafa.people.detectors import FoundPerson
from fafa.people.scenes import PeopleCutter


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def rtdetr(tmp_path_factory):
    return tiny_rtdetr(tmp_path_factory.mktemp("rtdetr"))


@pytest.fixture(scope="module")
def detr(tmp_path_factory):
    return tiny_detr(tmp_path_factory.mktemp("detr"))


@pytest.fixture
def hog():
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "HOGDescriptor"):
        pytest.skip("OpenCV 5 has no HOG people detector")
    return load_detector("hog")


class TestTransformers:
    @pytest.mark.parametrize("kind", ["rtdetr", "detr"])
    def test_finds_the_people_that_the_model_finds_alone_and_none_of_its_other_things(self, request, kind, monkeypatch):
        folder = request.getfixturevalue(kind)
        monkeypatch.setattr("fafa.people.detectors._SURE", 0.3)  # random weights are sure of little
        images = [noise(120, 90), noise(90, 120, 1), noise(120, 90, 2), noise(64, 64, 3)]
        found = load_detector(folder).find(images)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        model = AutoModelForObjectDetection.from_pretrained(folder).eval()
        for image, people in zip(images, found, strict=True):
            with torch.no_grad():
                outputs = model(**processor(images=[image], return_tensors="pt"))
            [wanted] = processor.post_process_object_detection(outputs, 0.3, target_sizes=[image.size[::-1]])
            is_person = wanted["labels"] == list(LABELS.values()).index("person")
            boxes = wanted["boxes"][is_person]
            boxes[:, 0::2] = boxes[:, 0::2].clamp(0, image.width)
            boxes[:, 1::2] = boxes[:, 1::2].clamp(0, image.height)
            torch.testing.assert_close(torch.tensor([person.box for person in people]).reshape(-1, 4), boxes)
            scores = torch.tensor([person.score for person in people])
            torch.testing.assert_close(scores, wanted["scores"][is_person])
        assert any(found)

    def test_boxes_are_in_pixels_of_the_image_and_end_at_its_edges(self, tmp_path):
        people = [("person", 0.9, (0.5, 0.25, 0.25, 0.5)), ("person", 0.8, (0.95, 0.5, 0.3, 0.5))]
        detector = load_detector(fixed_detector(tmp_path, [*people, ("dog", 0.9, (0.2, 0.5, 0.2, 0.2))]))
        [[first, second]] = detector.find([noise(200, 100)])
        assert first.box == pytest.approx((75, 0, 125, 50), abs=0.1)
        assert second.box == pytest.approx((160, 25, 200, 75), abs=0.1)
        assert (first.score, second.score) == pytest.approx((0.9, 0.8), abs=1e-3)

    def test_a_folder_is_known_by_its_absolute_name(self, detr, monkeypatch):
        monkeypatch.chdir(detr.parent)
        assert load_detector(detr.name).name == str(detr)

    def test_no_images_have_no_people(self, detr):
        assert load_detector(detr).find([]) == []

    def test_labels_without_a_person_are_refused_by_name(self, tmp_path):
        folder = tiny_detr(tmp_path)
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"person"', '"pedestrian"'))
        with pytest.raises(ValueError, match=r"among its labels there is no 'person' .*dog, pedestrian"):
            load_detector(folder)

    def test_a_folder_of_something_else_is_refused_in_one_line(self, tmp_path):
        with pytest.raises(ValueError, match=r"no detector can be loaded from it.*'hog', which needs no") as caught:
            load_detector(tmp_path)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)

    def test_missing_weights_are_refused(self, tmp_path):
        """Transformers fills them with random numbers, and says so in a table."""
        from safetensors.torch import load_file, save_file

        file = tiny_detr(tmp_path) / "model.safetensors"
        weights = {name: weight for name, weight in load_file(file).items() if "class_labels" not in name}
        save_file(weights, file, {"format": "pt"})
        with pytest.raises(ValueError, match=r"weights of the detector are missing.*class_labels_classifier"):
            load_detector(tmp_path)


class TestHog:
    def test_is_refused_where_opencv_lacks_it(self, monkeypatch):
        """OpenCV 5 moved it out of the package."""
        monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="5.0.0"))
        with pytest.raises(ImportError, match=r"OpenCV 5\.0\.0 has no detector 'hog'.*headless<5"):
            load_detector("hog")

    def test_finds_nobody_in_what_is_no_picture_of_people(self, hog):
        assert hog.find([Image.new("RGB", (300, 300), "white"), Image.new("RGB", (20, 500)), noise(1, 1)]) == [
            [],
            [],
            [],
        ]

    @pytest.mark.parametrize("enlarged", [1, 3])
    def test_finds_a_painted_figure_where_it_stands(self, hog, enlarged, monkeypatch):
        """The same in a picture so large that it is shrunk: boxes are in pixels of the whole."""
        monkeypatch.setattr("fafa.people.detectors._HOG_SURE", 0.2)  # a painted figure is not much of a person
        image = Image.new("RGB", (400, 420), (235, 235, 235))
        figure(ImageDraw.Draw(image), 200, 60)
        monkeypatch.setattr("fafa.people.detectors._HOG_SIDE", 420)
        image = image.resize((400 * enlarged, 420 * enlarged), Image.Resampling.NEAREST)
        [found] = hog.find([image])
        best = max(found, key=lambda person: person.score)
        left, top, right, bottom = (side / enlarged for side in best.box)
        assert abs((left + right) / 2 - 200) < 20
        assert top < 110 and bottom > 290 and right - left < 160


def figure(draw, x, top):
    """A standing person, 300 pixels high."""
    draw.ellipse((x - 22, top, x + 22, top + 52), fill=(120, 90, 80))
    draw.rectangle((x - 44, top + 52, x + 44, top + 165), fill=(40, 50, 90))
    draw.polygon(
        [(x - 42, top + 165), (x + 42, top + 165), (x + 40, top + 300), (x + 8, top + 300), (x, top + 190),
         (x - 8, top + 300), (x - 40, top + 300)],
        fill=(60, 60, 60),
    )  # fmt: skip


@pytest.mark.parametrize(
    "found",
    [
        [[FoundPerson((1, 2, float("nan"), 9), 0.5)]],
        [[FoundPerson((1, 2, 9, float("inf")), 0.5)]],
        [[FoundPerson((490, 490, 700, 800), 0.5)]],
        [[FoundPerson((9, 2, 1, 9), 0.5)]],
        [[FoundPerson((1, 2, 9, 9), float("nan"))]],
        [],
    ],
    ids=["NaN", "infinite", "beyond", "turned round", "score", "no list"],
)
def test_what_a_detector_cannot_have_found_is_refused_by_its_name(found, tmp_path):
    """A detector of one's own may err: photographs were indexed whole, or errors named neither it nor them."""

    class Odd(Detector):
        name = "odd"

        def find(self, images):
            return found

    for use in (lambda: people_in(noise(40, 60), Odd()), lambda: PeopleCutter(Odd()).cut([noise(40, 60)])):
        with pytest.raises(ValueError, match="the detector odd "):
            use()
