"""Codes of tokens: their stored errors are true bounds, whatever the tokens."""

import pytest
import torch
from torch.nn.functional import normalize

from fafa.retrieval.quantization import make_part, quantize, row_checksums


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-30, 0.0])
def test_no_token_is_further_from_its_code_than_its_error_says(dtype, scale):
    generator = torch.Generator().manual_seed(0)
    tokens = (normalize(torch.randn(1100, 3, 17, generator=generator), dim=-1) * scale).to(dtype)
    tokens[7, 1] *= 100  # one large token makes the others' codes coarse
    codes, scales, errors = quantize(tokens)
    assert codes.dtype == torch.int8
    away = (tokens.double() - codes.double() * scales[:, None, None].double()).norm(dim=-1).amax(dim=1)
    assert (away <= errors.double()).all()
    if scale == 1.0:
        assert (errors[:7] < 0.02).all()


def test_tokens_that_are_no_numbers_get_no_codes():
    tokens = torch.randn(5, 2, 4)
    tokens[3, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="image 3 hold NaN"):
        quantize(tokens)


def test_a_part_holds_the_means_as_they_are_and_a_checksum_of_every_row():
    tokens = normalize(torch.randn(6, 3, 8), dim=-1).half()
    part = make_part(torch.arange(6), tokens)
    torch.testing.assert_close(part.means, tokens.float().mean(dim=1))
    changed = tokens.clone()
    changed[2, 1, 3] += 0.01
    assert (row_checksums(changed) != part.row_checksums).tolist() == [row == 2 for row in range(6)]
