"""FafaImageProcessor as transformers' own common tests want it; see `benchmarks/common_tests.py`."""

import unittest

from tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from fafa import FafaImageProcessor

# Tests that cannot hold for FAFA: name -> why.
EXCEPTIONS = {
    "test_call_numpy_4_channels": "wants pixels of four channels (do_convert_rgb=False); the vision tower reads RGB",
    "test_image_processor_from_dict_with_kwargs_has_attributes": "sets do_convert_rgb=False, which is refused by name",
    "test_new_models_require_torchvision_backend": "the released pixels are Pillow's, to the last bit; torchvision's "
    "resize gives others",
}


class FafaImageProcessingTester(ImageProcessingTester):
    """Small pictures; the class is named here, for its file is not in transformers."""

    def __init__(self, parent, **settings):
        super().__init__(parent, **{"size": {"height": 18, "width": 18}, "do_normalize": True, **settings})

    def _get_image_processing_classes(self) -> dict[str, type]:
        return {"pil": FafaImageProcessor}


class FafaImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    """The common tests, less `EXCEPTIONS`."""

    image_processor_tester_class = FafaImageProcessingTester
    test_cast_dtype = True
