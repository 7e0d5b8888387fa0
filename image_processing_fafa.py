"""Images for FAFA: from anything that holds a picture of a person to the pixels that the vision tower reads.

The steps are those of the released code's test transform, done as there on 8-bit pixels with Pillow, so that the result
is the same to the last bit (Pillow 12; Pillow 13 computes some resizes in another order):

    open_image      any source and mode        -> upright 8-bit RGB
    to_person_crop  resize, bicubic            -> person_size, 384 x 192 (height x width)
    to_square       zero-pad, resize, crop     -> size, 224 x 224
    to_pixel_values rescale, CLIP mean and std -> float32 (num_images, 3, 224, 224)
"""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature, get_size_dict
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling, SizeDict
from transformers.utils import is_torch_tensor

try:  # an iPhone's HEIC, where it is installed; here, so that DataLoader workers open it, too
    from pillow_heif import register_heif_opener
except ImportError:
    pass
else:
    register_heif_opener()

_EXIF_ORIENTATION = 0x0112
_CHANNELS = (1, 2, 3, 4)
# Says nothing about the picture, so must not pass for a corrupt one that a training run may skip.
_SYSTEM_TROUBLE = {errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPERM}
_SOURCES = "a PIL image, an array, a tensor, a path or a mapping with 'path' or 'bytes'"


class UnreadableImageError(ValueError):
    """A file or picture that exists but cannot be decoded: truncated, empty, not an image, far too large.

    This is the one error that a policy of skipping corrupt images should catch: a missing file (`FileNotFoundError`)
    or a wrong type (`TypeError`) points at a broken data set or program, not at one bad picture.

    Attributes:
        source (`str`): What was being read, as named in the message.
        path (`str` or `None`): The file, where there is one.
    """

    # One positional argument, so that the error survives pickling and the DataLoader's re-raise in the main process.
    def __init__(self, message: str, source: str = "image", path: str | None = None):
        super().__init__(message)
        self.source = source
        self.path = path


def open_image(image: Any, name: str = "image") -> Image.Image:
    """Reads one picture as an upright 8-bit RGB image.

    Args:
        image: A PIL image of any mode; a path (`str` or `Path`); a mapping with `"bytes"` or `"path"`, as `datasets`
            gives undecoded images; or an array or tensor of rank 2 (height, width) or 3 (channels last or first; where
            both fit, arrays are read as channels last and tensors as channels first) with 1 to 4 channels: uint8,
            bool, uint16, other integers within 0..255, or floats within 0..1.
        name (`str`): How messages call the picture, for instance `"images[3]"`.

    Returns:
        `PIL.Image.Image`: Mode RGB, EXIF orientation applied. Transparent parts lie over white, as a viewer shows them
        (a plain conversion would reveal whatever colour is stored underneath); 16-bit values are divided by 257.
        A file already in RGB comes back with the pixels that the released code's `convert("RGB")` gives.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableImageError: The picture cannot be decoded, or exceeds Pillow's limit against decompression bombs.
        ValueError: An array of another rank or size, or with values that are not pixels (NaN, out of range).
        TypeError: None of the above, or an array of another dtype.
    """
    if isinstance(image, Image.Image):
        return _decode(image, name, getattr(image, "filename", None) or None)
    if isinstance(image, (str, os.PathLike)):
        return _decode(image, name, os.fspath(image))
    if isinstance(image, Mapping):
        return _open_mapping(image, name)
    if isinstance(image, np.ndarray):
        return _image_from_array(image, name)
    if is_torch_tensor(image):
        array = image.detach().cpu()
        array = array.float().numpy() if array.is_floating_point() else array.numpy()
        return _image_from_array(array, name, channels_first=True)
    raise TypeError(f"{name}: expected {_SOURCES}, got {type(image).__name__}.")


def _open_mapping(image: Mapping, name: str) -> Image.Image:
    data, path = image.get("bytes"), image.get("path")
    if data is not None:
        return _decode(BytesIO(data), name, path)
    if path is not None:
        return _decode(path, name, os.fspath(path))
    raise TypeError(f"{name}: expected a mapping with 'bytes' or 'path', got the keys {sorted(image)}.")


def _decode(source: Image.Image | str | os.PathLike | BytesIO, name: str, path: str | None) -> Image.Image:
    """Opens, loads, turns upright and converts; names the picture in whatever goes wrong."""
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source)
        with Image.open(source) as image:
            return _to_rgb(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: no file {path!r} (current folder: {Path.cwd()}). Check the folder that paths are relative to; "
            "pictures behind a URL must be downloaded first."
        ) from error
    # A decoder that meets a broken file raises nearly anything: OSError, SyntaxError, struct.error, zlib.error, ...
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _SYSTEM_TROUBLE:
            raise
        where = f"{name}: {path!r}" if path else name
        size = f" ({Path(path).stat().st_size} bytes)" if path and Path(path).is_file() else ""
        raise UnreadableImageError(
            f"{where}{size} cannot be read as an image ({type(error).__name__}: {error}). "
            "Expected a whole picture in a format that Pillow opens; fetch or export the file again, or leave it out.",
            source=path or name,
            path=path,
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scales grey values of a PIL image in mode I or F, whose range no header tells, to uint8.

    uint16 counts from 0 to 65535. Otherwise the range is the smallest usual one that holds the values: 1 (floats),
    255 or 65535.
    """
    top = values.max(initial=0)
    if not (values.min(initial=0) >= 0 and top <= 65535):  # also true for NaN
        raise ValueError(f"grey values from {values.min()} to {top}, expected 0..65535; scale them to 0..255 first")
    if values.dtype.itemsize == 2 or top > 255:
        white = 65535
    elif values.dtype.kind == "f" and top <= 1:
        white = 1
    else:
        white = 255
    return np.rint(values * (255 / white)).astype(np.uint8)


def _image_from_array(array: np.ndarray, name: str, channels_first: bool = False) -> Image.Image:
    array = _channels_last(array, name, channels_first)
    if array.size == 0:
        raise ValueError(f"{name}: the array of shape {array.shape} holds no pixels.")
    pixels = np.ascontiguousarray(_array_to_8_bit(array, name))
    channels = pixels.shape[2]
    return _to_rgb(Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels))


def _channels_last(array: np.ndarray, name: str, channels_first: bool) -> np.ndarray:
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim == 3:
        fits_first, fits_last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
        if fits_first and (channels_first or not fits_last):
            return array.transpose(1, 2, 0)
        if fits_last:
            return array
    raise ValueError(
        f"{name}: an array of shape {array.shape} is not one picture. Expected (height, width), (height, width, "
        "channels) or (channels, height, width) with 1 to 4 channels; pass batches as a list or a rank-4 array."
    )


def _array_to_8_bit(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if array.dtype.newbyteorder("=") == np.uint16:
        return _to_8_bit(array)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: an array of dtype {array.dtype} holds no pixels. Expected integers or floats.")
    low, high = array.min(), array.max()
    if array.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise ValueError(f"{name}: values from {low} to {high}. Expected 0..255, or dtype uint16 for 0..65535.")
        return array.astype(np.uint8)
    # A little overshoot is what interpolation leaves; anything more is another scale. The test is false for NaN.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"{name}: values from {low} to {high}. Expected floats within 0..1, without NaN; "
            "convert 0..255 to uint8, and undo any normalisation before the image processor does its own."
        )
    return np.rint(array.clip(0, 1) * 255).astype(np.uint8)


class FafaImagesKwargs(TypedDict, total=False):
    """Settings of `FafaImageProcessor`; its docstring explains them."""

    do_person_resize: bool | None
    person_size: dict[str, int] | None
    do_pad_square: bool | None
    size: dict[str, int] | None
    resample: PILImageResampling | int | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: list[float] | None
    image_std: list[float] | None


class FafaImageProcessor(PilBackend):
    """Turns pictures of people into `pixel_values`, by the test transform of FAFA's released code.

    Every setting is saved by `save_pretrained` and may also be given for one call: `image_processor(images, size=96)`.
    With `do_person_resize=False` it is the released "squarepad" transform, with `do_pad_square=False` too "inference".

    Args:
        do_person_resize (`bool`, defaults to `True`): Resize every picture to `person_size` first.
        person_size (`dict`, defaults to `{"height": 384, "width": 192}`): The shape of a person crop, in pixels.
        do_pad_square (`bool`, defaults to `True`): Zero-pad to a square, picture in the middle; if not, the last
            resize distorts.
        size (`dict` or `int`, defaults to `{"height": 224, "width": 224}`): The model's input; a square.
        resample (`PIL.Image.Resampling`, defaults to `BICUBIC`): The filter of both resizes.
        do_rescale (`bool`, defaults to `True`): Multiply the 8-bit values by `rescale_factor` (1/255).
        do_normalize (`bool`, defaults to `True`): Subtract `image_mean`, divide by `image_std` (those of CLIP).

    Examples:

    ```python
    >>> import numpy as np
    >>> from fafa.image_processing_fafa import FafaImageProcessor

    >>> image_processor = FafaImageProcessor()
    >>> picture = np.zeros((128, 64, 3), dtype=np.uint8)
    >>> image_processor([picture, picture], return_tensors="pt")["pixel_values"].shape
    torch.Size([2, 3, 224, 224])

    ```
    """

    valid_kwargs = FafaImagesKwargs
    model_input_names = ["pixel_values"]

    do_person_resize = True
    person_size = {"height": 384, "width": 192}
    do_pad_square = True
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BICUBIC
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD

    def preprocess(self, images: Any, return_tensors: str | None = None, **settings) -> BatchFeature:
        """Opens and transforms one picture or a batch. Calling the image processor does the same.

        Args:
            images: One source as `open_image` takes it, a sequence of such (kinds may be mixed), or a rank-4 array or
                tensor.
            return_tensors (`"pt"`, `"np"` or `None`): The type of the result; `None` is numpy as well.
            settings: Settings that replace the saved ones for this call.

        Returns:
            `BatchFeature` with `pixel_values`, float32 of shape (num_images, 3, size, size); one picture gives a batch
            of one.

        Raises:
            As `open_image`, naming the picture by its index; `ValueError` for an empty batch; `TypeError` for an
            unknown setting.
        """
        if settings:
            return self._with_settings(settings).preprocess(images, return_tensors)
        squares = [
            self.to_square(self.to_person_crop(image, name=f"images[{index}]"))
            for index, image in enumerate(_as_batch(images))
        ]
        return BatchFeature({"pixel_values": self.to_pixel_values(squares)}, tensor_type=return_tensors)

    def to_person_crop(self, image: Any, name: str = "image") -> Image.Image:
        """Opens a picture (see `open_image`) and resizes it to `person_size`, where training augments it."""
        image = open_image(image, name)
        if not self.do_person_resize:
            return image
        return self._resize(image, (self.person_size.width, self.person_size.height))

    def to_square(self, crop: Image.Image) -> np.ndarray:
        """Pads an RGB person crop to a square and resizes it to the model's input: uint8 (size, size, 3)."""
        side = self.size.height
        if not self.do_pad_square:
            return np.asarray(self._resize(crop, (side, side)))
        square = _pad_to_square(crop)
        # The shorter edge to `side`, then the middle: the same as a plain resize unless the padding left the picture
        # a pixel short of square.
        shorter = min(square.size)
        square = self._resize(square, (side * square.width // shorter, side * square.height // shorter))
        return np.asarray(_center_crop(square, side))

    def to_pixel_values(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Rescales and normalises: uint8 pictures (size, size, 3) to float32 (num_images, 3, size, size)."""
        # A channel has only 256 levels, so a look-up does: faster than the arithmetic, and equal to the last bit.
        levels = self._normalized_levels()
        pixel_values = np.empty((len(squares), 3, *squares[0].shape[:2]), dtype=np.float32)
        for square, planes in zip(squares, pixel_values, strict=True):
            for channel in range(3):
                np.take(levels[channel], square[:, :, channel], out=planes[channel], mode="clip")
        return pixel_values

    def _normalized_levels(self) -> np.ndarray:
        """What each of the 256 levels of each channel becomes: float32 (3, 256)."""
        levels = np.arange(256) * (self.rescale_factor if self.do_rescale else 1)
        levels = np.tile(levels.astype(np.float32), (3, 1))
        if self.do_normalize:
            levels -= np.reshape(self.image_mean, (-1, 1)).astype(np.float32)
            levels /= np.reshape(self.image_std, (-1, 1)).astype(np.float32)
        return levels

    def _resize(self, image: Image.Image, target: tuple[int, int]) -> Image.Image:
        return image if image.size == target else image.resize(target, self.resample)

    def _with_settings(self, settings: dict[str, Any]) -> "FafaImageProcessor":
        known = self.valid_kwargs.__annotations__
        if unknown := sorted(settings.keys() - known.keys()):
            raise TypeError(f"unknown setting {', '.join(unknown)}; FafaImageProcessor has {', '.join(known)}.")
        given = {name: value for name, value in settings.items() if value is not None}
        return type(self)(**{**self.to_dict(), **given})

    def _standardize_kwargs(self, person_size: Any = None, **kwargs) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(default_to_square=True, **kwargs)
        kwargs["person_size"] = SizeDict(**get_size_dict(person_size, param_name="person_size"))
        for name in ("person_size", "size"):
            if not (kwargs[name].height and kwargs[name].width):
                raise ValueError(f'{name}: expected {{"height": ..., "width": ...}}, got {dict(kwargs[name])}.')
        if kwargs["size"].height != kwargs["size"].width:
            raise ValueError(f"size: the model reads squares, got {dict(kwargs['size'])}.")
        return kwargs


def _as_batch(images: Any) -> Iterable[Any]:
    if isinstance(images, (np.ndarray, Sequence)) or is_torch_tensor(images):
        is_batch = images.ndim == 4 if hasattr(images, "ndim") else not isinstance(images, (str, bytes))
        if is_batch and len(images) == 0:
            raise ValueError("images is empty. Expected at least one picture.")
        return images if is_batch else [images]
    return [images]


def _pad_to_square(image: Image.Image) -> Image.Image:
    """Adds as much black on both sides, so that an odd difference leaves the picture a pixel short of square."""
    width, height = image.size
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    if left == top == 0:
        return image
    square = Image.new("RGB", (width + 2 * left, height + 2 * top))
    square.paste(image, (left, top))
    return square


def _center_crop(image: Image.Image, side: int) -> Image.Image:
    if image.size == (side, side):
        return image
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


__all__ = ["FafaImageProcessor", "UnreadableImageError", "open_image"]
