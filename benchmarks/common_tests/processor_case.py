"""FafaProcessor as transformers' own common tests want it; see `benchmarks/common_tests.py`."""

import unittest

from fafa import FafaImageProcessor, FafaProcessor
from fafa.processing_fafa import build_tokenizer
from tests import test_processing_common as common

# Tests that cannot hold for FAFA: name -> why.
EXCEPTIONS = {
    "test_args_overlap_kwargs": "gives the image processor a setting that nothing reads (is_override), saves and loads "
    "it: settings that nothing reads are refused by name",
    "test_processor_text_has_no_visual": "mixes queries with and without a picture in one batch, which the model "
    "cannot encode together",
    "test_subprocessor_defaults_preserved_by_kwargs_0_images": "wants max_length of the tokenizer's file, where the "
    "length of its last call before it was saved stands; lengths are the processor's own (max_text_length)",
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lower", "newer", "upper", "older", "longer", "string", "what"]
# By default the factor is -1, which is refused: it makes negatives of pictures. The check is that values fall below 0.
common.MODALITY_TEST_SPECS["images"]["init_time_kwargs"] = {"do_rescale": True, "rescale_factor": 1e-3}


class FafaProcessorTest(common.ProcessorTesterMixin, unittest.TestCase):
    """The common tests, less `EXCEPTIONS`."""

    processor_class = FafaProcessor

    @classmethod
    def _setup_image_processor(cls) -> FafaImageProcessor:
        return FafaImageProcessor(size=96)

    @classmethod
    def _setup_tokenizer(cls):
        return build_tokenizer(WORDS)
