"""Features in eight bits: what lets a search pass over most images of a gallery without reading their tokens."""

import numpy as np
import torch
import xxhash
from torch import Tensor

from .parts import Part

_IMAGES_AT_ONCE = 1024  # their tokens' copies in fp32 fit in a few dozen MB


def quantize(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens as int8 codes, one scale an image, and how far off the codes are.

    The scale is the image's largest entry over 127, so no code is clipped. `errors` is an upper bound: the norms are
    computed in fp32, and raised by what its rounding can have taken off. With u = 2^-24, an entry of `code * scale` is
    off by u |code * scale|, an entry of the difference by u of itself, and the norm of `dim` entries by a share of
    (dim + 4) u at most; squares of entries below 2^-63 are lost.

    Args:
        tokens: `(n, num_tokens, dim)`, floating-point, as they are kept: the errors are of these very numbers.

    Returns:
        codes `(n, num_tokens, dim)`, int8; scales and errors, `(n,)`, fp32, as in `Part`.

    Raises:
        ValueError: a token holds NaN or infinity.
    """
    (count, _, dim), u = tokens.shape, 2.0**-24
    codes = torch.empty(tokens.shape, dtype=torch.int8, device=tokens.device)
    scales, errors = (torch.empty(count, dtype=torch.float32, device=tokens.device) for _ in range(2))
    for start in range(0, count, _IMAGES_AT_ONCE):
        block = slice(start, start + _IMAGES_AT_ONCE)
        exact = tokens[block].float()
        largest = exact.abs().amax(dim=(1, 2))
        if not largest.isfinite().all():
            row = start + int(largest.isfinite().logical_not().nonzero()[0])
            raise ValueError(f"the tokens of image {row} hold NaN or infinity: they cannot be kept as codes")
        scale = largest / 127
        scale[scale < torch.finfo(torch.float32).tiny] = 0.0  # below, quotients would lose their precision
        codes[block] = (
            (exact / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None, None]).round().clamp(-127, 127)
        )
        norms = torch.linalg.vector_norm(exact - codes[block] * scale[:, None, None], dim=-1).amax(dim=1)
        scales[block] = scale
        errors[block] = norms * (1 + 2 * (dim + 4) * u) + (2 * u * 127 * scale + 2.0**-60) * dim**0.5
    return codes, scales, errors


def row_checksums(rows: Tensor) -> Tensor:
    """xxh3_64 over the bytes of each row, `(n, ...)` in CPU memory or mapped: `(n,)`, int64."""
    data = rows.contiguous().view(len(rows), -1).view(torch.uint8).numpy()
    sums = np.fromiter((xxhash.xxh3_64_intdigest(row) for row in data), dtype=np.uint64, count=len(data))
    return torch.from_numpy(sums.view(np.int64))


def make_part(ids: Tensor, tokens: Tensor) -> Part:
    """A part of images' tokens with all that a search uses; see `Part`."""
    codes, scales, errors = quantize(tokens)
    means = torch.cat([block.float().mean(dim=1) for block in tokens.split(_IMAGES_AT_ONCE)])
    return Part(ids, tokens, means, codes, scales, errors, None, row_checksums(tokens))
