"""Settings of the processors that nothing could be made with: refused by name, before any picture or caption."""

import json
import math

import pytest
from tiny import tiny_processor

from fafa import FafaImageProcessor, FafaProcessor

ABSURD = [
    ({"size": 50_000}, "size: expected a height from 1 to 4096 pixels, got 50000"),
    ({"size": {"height": 10**30, "width": 10**30}}, "size: expected a height"),
    ({"size": -1}, "size: expected a height from 1 to 4096 pixels, got -1"),
    ({"size": True}, "got True"),
    ({"size": "big"}, "size"),
    ({"person_size": {"height": 60_000, "width": 60_000}}, "person_size: expected a height from 1 to 4096 pixels"),
    ({"person_size": {"height": 384, "width": 2.5}}, "person_size: expected a width"),
    ({"person_size": {"height": 384, "width": 0}}, "person_size: expected"),
    ({"resample": 99}, "resample: expected one of"),
    ({"resample": "bicubic"}, "resample: expected one of"),
    ({"rescale_factor": math.nan}, "rescale_factor: expected a finite number"),
    ({"rescale_factor": "1/255"}, "rescale_factor: expected a finite number"),
    ({"rescale_factor": 0}, "rescale_factor: expected numbers above 0"),
    ({"image_mean": [0.5, 0.5]}, "image_mean: expected a finite number or three"),
    ({"image_mean": [math.inf] * 3}, "image_mean: expected a finite number or three"),
    ({"image_std": [0.2, 0.0, 0.2]}, "image_std: expected numbers above 0"),
    ({"image_std": "abc"}, "image_std: expected a finite number"),
    ({"do_rescale": "yes"}, "do_rescale: expected true or false, got 'yes'"),
    ({"do_normalize": 1}, "do_normalize: expected true or false"),
]


@pytest.mark.parametrize(("settings", "message"), ABSURD)
def test_absurd_settings_are_refused_by_name_also_from_a_folder(tmp_path, settings, message):
    """A side of 50,000 used to end in a MemoryError from Pillow, at the first picture."""
    with pytest.raises(ValueError, match=message):
        FafaImageProcessor(**settings)
    FafaImageProcessor().save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(ValueError, match=message):
        FafaImageProcessor.from_pretrained(tmp_path)


def test_absurd_settings_for_one_call_are_refused_by_name():
    with pytest.raises(ValueError, match="size: expected a height from 1 to 4096 pixels, got 50000"):
        FafaImageProcessor()([], size=50_000)


@pytest.mark.parametrize("settings", [{"max_text_length": value} for value in (0, -5, 10**18, "32", True, math.nan)])
def test_absurd_settings_of_captions_are_refused_by_name_also_from_a_folder(tmp_path, settings):
    processor = tiny_processor()
    with pytest.raises(ValueError, match="max_text_length: expected a whole number from 3"):
        FafaProcessor(processor.image_processor, processor.tokenizer, **settings)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(ValueError, match="max_text_length: expected a whole number from 3"):
        FafaProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("settings", [{"image_mean": 0.5, "image_std": [1, 1, 1]}, {"resample": 0}, {"size": 4096}])
def test_unusual_settings_are_taken(settings):
    FafaImageProcessor(**settings)
