"""Checks of what goes into a FAFA model and comes out of it; what is wrong is refused by name, with a remedy.

Types and shapes are always checked. Values, such as ids beyond the vocabulary, are checked only on a CPU: elsewhere a
check would wait for the device in every step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .names import some

UNIT_TOLERANCE = 0.01  # of a feature's length: somewhat more than rounding to bfloat16 changes
ALIKE = 1e-5  # largest difference of features that count as alike
NOTABLE = 0.1  # smallest difference of normalised pixels that makes images different; ids differ by at least 1


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _may_look(tensor: Tensor) -> bool:
    """Whether values may be read: they are on the CPU, and no graph is being made, which that would break."""
    return tensor.device.type == "cpu" and type(tensor) is Tensor and not _is_traced()


def _check_tensor(name: str, value: object, shape: str) -> None:
    if not isinstance(value, Tensor):
        remedy = "torch.as_tensor makes one of lists and arrays"
        raise TypeError(f"{name} is of type {type(value).__name__}, expected a tensor {shape}; {remedy}")


def _check_integers(name: str, value: object, shape: str, reason: str) -> None:
    _check_tensor(name, value, shape)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} are {value.dtype}, expected integers: {reason}")


def check_images(name: str, pixels: Tensor, image_shape: tuple[int, int]) -> None:
    """Refuses images that the model cannot read, or would read wrongly.

    Args:
        name: the argument's.
        pixels: `(num_images, 3, height, width)`.
        image_shape: height and width that the model takes.

    Raises:
        TypeError: not a tensor of floating-point numbers.
        ValueError: another shape, or no image.
    """
    shape = "(num_images, 3, height, width)"
    _check_tensor(name, pixels, shape)
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"expected {name} {shape}, got {tuple(pixels.shape)}; FafaProcessor makes them")
    if pixels.shape[0] == 0:
        raise ValueError(f"{name} holds no image: leave empty batches out")
    # The tower would give the patches of smaller images the positions of other places.
    if pixels.shape[2:] != image_shape:
        raise ValueError(
            f"{name}: the images have {pixels.shape[2]} x {pixels.shape[3]} pixels, but this model takes "
            f"{image_shape[0]} x {image_shape[1]}: use the processor that was saved with it"
        )
    if not pixels.is_floating_point():
        raise TypeError(
            f"{name} are {pixels.dtype}, expected floating-point numbers, rescaled and normalised; FafaProcessor makes "
            "them"
        )


def check_captions(name: str, ids: Tensor, mask: Tensor | None, vocab_size: int, num_positions: int) -> None:
    """Refuses captions that the model cannot read, or would read wrongly.

    Args:
        name: that of the argument with the ids, from which the mask's is derived.
        ids: `(num_captions, length)`.
        mask: the same shape, 0 at padding; or None.
        vocab_size: rows of the word embeddings.
        num_positions: the most tokens of a caption.

    Raises:
        TypeError: not tensors of integers.
        ValueError: another shape, no caption, too long a caption, an unknown id, or a caption that is all padding.
    """
    shape = "(num_captions, length)"
    _check_integers(name, ids, shape, "the tokenizer makes them")
    if ids.ndim != 2:
        raise ValueError(f"expected {name} {shape}, got {tuple(ids.shape)}; FafaProcessor makes them")
    if ids.shape[0] == 0 or ids.shape[1] == 0:
        raise ValueError(f"{name} {tuple(ids.shape)} holds no caption: leave empty batches out")
    if ids.shape[1] > num_positions:
        raise ValueError(
            f"{name}: the captions have {ids.shape[1]} tokens, but this model has {num_positions} positions: let the "
            "processor cut them (max_text_length)"
        )
    if _may_look(ids):
        wrong = (ids < 0) | (ids >= vocab_size)
        if wrong.any():
            row = int(wrong.any(dim=1).nonzero()[0])
            raise ValueError(
                f"{name}: caption {row} holds the id {int(ids[wrong][0])}, but this model knows ids from 0 to "
                f"{vocab_size - 1}: use the processor that was saved with it, or model.resize_token_embeddings"
            )
    if mask is None:
        return
    mask_name = name.replace("input_ids", "attention_mask")
    _check_tensor(mask_name, mask, shape)
    if mask.shape != ids.shape:
        raise ValueError(f"{mask_name} {tuple(mask.shape)} does not fit {name} {tuple(ids.shape)}: expected its shape")
    if _may_look(mask):
        if ((mask != 0) & (mask != 1)).any():
            raise ValueError(f"{mask_name} holds other values than 0 (padding) and 1")
        empty = (mask == 0).all(dim=1)
        if empty.any():
            raise ValueError(f"{mask_name}: caption {int(empty.nonzero()[0])} is all padding; leave such captions out")


def check_triplets(
    pixel_values: Tensor | None,
    input_ids: Tensor | None,
    target_pixel_values: Tensor | None = None,
    caption_input_ids: Tensor | None = None,
) -> None:
    """Refuses parts of queries, or of triplets, that are not equally many. What is None is not looked at.

    Raises:
        ValueError: it tells the numbers.
    """
    if pixel_values is not None and input_ids is not None and pixel_values.shape[0] != input_ids.shape[0]:
        raise ValueError(
            f"{pixel_values.shape[0]} reference images for {input_ids.shape[0]} captions: one of each a query"
        )
    if target_pixel_values is not None and target_pixel_values.shape[0] != pixel_values.shape[0]:
        raise ValueError(
            f"{target_pixel_values.shape[0]} target images for {pixel_values.shape[0]} queries: one a triplet"
        )
    if caption_input_ids is not None and caption_input_ids.shape[0] != input_ids.shape[0]:
        raise ValueError(
            f"{caption_input_ids.shape[0]} captions of targets for {input_ids.shape[0]} triplets: one each"
        )


def check_group_ids(ids: Tensor, batch_size: int) -> None:
    """Refuses group ids that are not one integer per triplet.

    Raises:
        TypeError: not a tensor of integers.
        ValueError: another number of them.
    """
    if isinstance(ids, (list, tuple)) and any(isinstance(entry, str) for entry in ids):
        raise TypeError("group_ids are strings, expected a tensor of integers: number the groups")
    _check_integers("group_ids", ids, "(batch_size,)", "rounding would join groups")
    if ids.ndim != 1 or ids.shape[0] != batch_size:
        raise ValueError(f"group_ids {tuple(ids.shape)} for {batch_size} triplets: expected ({batch_size},), one each")


def check_scored(queries: Tensor, targets: Tensor) -> None:
    """Refuses what cannot be scored; `check_features` sees all queries, and 256 targets spread over the gallery.

    Raises:
        TypeError: not tensors of floating-point numbers.
        ValueError: they are on different devices, or the features cannot be right.
    """
    for name, features, shape in (
        ("queries", queries, "(num_queries, dim)"),
        ("targets", targets, "(num_targets, num_tokens, dim)"),
    ):
        _check_tensor(name, features, shape)
        if not features.is_floating_point():
            raise TypeError(f"{name} are {features.dtype}, expected floating-point features")
    if queries.device != targets.device:
        raise ValueError(f"queries are on {queries.device}, targets on {targets.device}: move one to the other")
    has_gradients = queries.requires_grad or targets.requires_grad
    if queries.ndim == 2 and targets.ndim == 3 and not has_gradients and not _is_traced():
        check_features(queries, "query")
        step = max(1, targets.shape[0] // 256)
        check_features(targets[::step], "target", range(0, targets.shape[0], step))


def check_features(features: Tensor, kind: str = "row", names: Sequence[object] | None = None) -> None:
    """Refuses features that no sound model makes: zero, not finite, or not of unit length. It waits for the device.

    Args:
        features: `(num_rows, ..., dim)`.
        kind: what an error calls a row, "image" for example.
        names: what follows the kind, for each row; None: their numbers.

    Raises:
        ValueError: the message names the rows.
    """
    lengths = torch.linalg.vector_norm(features, dim=-1, dtype=torch.promote_types(features.dtype, torch.float32))
    right = (lengths - 1.0).abs() <= UNIT_TOLERANCE  # false for NaN
    if right.all():
        return
    finite = lengths.isfinite()
    wrong = right.logical_not() if finite.all() else finite.logical_not()
    rows = wrong.reshape(wrong.shape[0], -1).any(dim=1).nonzero().flatten().tolist()
    who = some([f"{kind} {row if names is None else names[row]}".strip() for row in rows], shown=3)
    if not finite.all():
        raise ValueError(
            f"the features of {who} hold NaN or infinity: the model's weights are damaged, or its precision too low "
            "(use bf16 rather than fp16)"
        )
    length = lengths[wrong][0].item()
    if length == 0.0:
        raise ValueError(f"the features of {who} are zero: the model's weights are damaged, or lost in quantisation")
    raise ValueError(
        f"the features of {who} have length {length:.3g}, expected 1: they are damaged, or not this model's, whose "
        "features are normalised"
    )


class AlikeFeatures:
    """Refuses features that are all alike although their inputs differ; they are passed to it batch by batch.

    Once two features differ, it checks no more.
    """

    def __init__(self):
        self._first: tuple[Tensor, list[Tensor]] | None = None
        self._inputs_differ = self._features_differ = False

    def check(self, features: Tensor, *inputs: Tensor) -> None:
        """Takes the next rows; it waits for the device.

        Args:
            features: `(num_rows, ..., dim)`.
            inputs: what they were made from, each `(num_rows, ...)`: pixels, ids of captions.

        Raises:
            ValueError: the inputs of all batches so far differ, but their features do not.
        """
        if self._features_differ or features.shape[0] == 0:
            return
        if self._first is None:
            self._first = features[:1].clone(), [rows[:1].clone() for rows in inputs]
        feature, firsts = self._first
        self._features_differ = not bool((features - feature).abs().max() <= ALIKE)  # NaN differs
        self._inputs_differ = self._inputs_differ or any(map(_differs, firsts, inputs))
        if self._inputs_differ and not self._features_differ:
            raise ValueError(
                "different images or captions have the same features: the model's weights are damaged, lost in "
                "quantisation, or never trained (BLIP-2's initial values make all images alike)"
            )


def _differs(first: Tensor, rows: Tensor) -> bool:
    if first.ndim == 2 and first.shape[1] != rows.shape[1]:  # ids, padded to the longest of their batches
        width = max(first.shape[1], rows.shape[1])
        first, rows = (F.pad(ids, (0, width - ids.shape[1])) for ids in (first, rows))
    return bool((rows - first).abs().max() > NOTABLE)
