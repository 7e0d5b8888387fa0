"""Images for FAFA: from anything that holds an image of a person to the pixels that the vision tower reads.

The steps are those of the released code's test transform, done as there on 8-bit pixels with Pillow, so that the result
is the same to the last bit (Pillow 12; Pillow 13 computes some resizes in another order):

    open_image      any source and mode        -> upright 8-bit RGB
    to_person_crop  resize, bicubic            -> person_size, 384 x 192 (height x width)
    to_square       zero-pad, resize, crop     -> size, 224 x 224
    to_pixel_values rescale, CLIP mean and std -> float32 (num_images, 3, 224, 224)
"""

import math
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypedDict

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature, get_size_dict
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils import is_torch_tensor

from .image_reading_fafa import MAX_PIXELS, open_image, refused_image
from .names import meant

# How many times larger than its final size a draft is at least, so that the resize still averages. With 2, photographs
# of 4032 x 3024 pixels, what most cameras make, would be decoded at 1/2 instead of 1/4, and take twice as long.
_DRAFT_MARGIN = 1.9
_FILTER_REACH = 3  # pixels at most to either side, of Pillow's filters (Lanczos)
_MOST_PIXELS = 4096  # per side: such an image takes 200 MB as float32; the released model reads 224


class FafaImageProcessorKwargs(TypedDict, total=False):
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
    draft_photographs: bool | None


# transformers' settings for images that cannot be chosen here: what they must be, and why.
_FIXED_SETTINGS = {
    "do_convert_rgb": (True, "the model reads RGB"),
    "do_resize": (True, "the model reads images of one size; do_person_resize and do_pad_square say how they get it"),
    "default_to_square": (True, "the model reads squares"),
    "do_center_crop": (False, "a crop could lose the person; do_pad_square says how an image becomes a square"),
    "crop_size": (None, "a crop could lose the person; do_pad_square says how an image becomes a square"),
    "do_pad": (None, "do_pad_square says whether images are padded"),
    "pad_size": (None, "do_pad_square pads to the longer side"),
    "data_format": ("channels_first", "the model reads channels first"),
    "image_seq_length": (None, "captions hold no placeholders for images"),
}
_OPTIONS_OF_A_CALL = {"return_tensors", "input_data_format", "device"}
# Written by transformers beside the settings.
_SAVED_BESIDE = {"image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "backend"}


class FafaImageProcessor(PilBackend):
    """Turns images of people into `pixel_values`, by the test transform of FAFA's released code.

    Every setting is saved by `save_pretrained` and may also be given for one call: `image_processor(images, size=96)`.
    With `do_person_resize=False` it is the released "squarepad" transform, with `do_pad_square=False` too "inference".

    Args:
        do_person_resize (`bool`, defaults to `True`): Resize every image to `person_size` first.
        person_size (`dict`, defaults to `{"height": 384, "width": 192}`): The shape of a person crop, in pixels.
        do_pad_square (`bool`, defaults to `True`): Zero-pad to a square, image in the middle; if not, the last
            resize distorts.
        size (`dict` or `int`, defaults to `{"height": 224, "width": 224}`): The model's input; a square.
        resample (`PIL.Image.Resampling`, defaults to `BICUBIC`): The filter of both resizes.
        do_rescale (`bool`, defaults to `True`): Multiply the 8-bit values by `rescale_factor` (1/255).
        do_normalize (`bool`, defaults to `True`): Subtract `image_mean`, divide by `image_std` (those of CLIP).
        draft_photographs (`bool`, defaults to `False`): Decode a JPEG file at 1/2, 1/4 or 1/8 of its size if that is
            still 1.9 times the size needed. It is several times faster for photographs of many megapixels, and pixels
            differ slightly from the released transform's. Person crops are too small to be affected.

    Examples:

    ```python
    >>> import numpy as np
    >>> from fafa.image_processing_fafa import FafaImageProcessor

    >>> image_processor = FafaImageProcessor()
    >>> image = np.zeros((128, 64, 3), dtype=np.uint8)
    >>> image_processor([image, image], return_tensors="pt")["pixel_values"].shape
    torch.Size([2, 3, 224, 224])

    ```
    """

    valid_kwargs = FafaImageProcessorKwargs
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
    draft_photographs = False

    def __init__(self, **settings: Any):
        """See the class.

        Raises:
            TypeError: a setting is unknown, or is one of transformers' that cannot be honoured.
            ValueError: it has an impossible value.
        """
        beside = {name: settings.pop(name) for name in list(settings) if name[0] == "_" or name in _SAVED_BESIDE}
        super().__init__(**self._refuse_foreign(settings), **beside)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **options: Any) -> list[str]:
        """Saves it as transformers does, but a `Path` can be pushed to the Hub, too."""
        return super().save_pretrained(os.fspath(save_directory), *args, **options)

    def preprocess(
        self,
        images: Any,
        return_tensors: str | None = None,
        names: Sequence[str] | None = None,
        input_data_format: str | None = None,
        device: Any = None,
        **settings: Any,
    ) -> BatchFeature:
        """Opens and transforms one image or a batch. Calling the image processor does the same.

        Args:
            images: One source as `open_image` takes it, a sequence of such (kinds may be mixed), or a rank-4 array or
                tensor.
            return_tensors (`"pt"`, `"np"` or `None`): The type of the result; `None` is numpy as well.
            names (sequence of `str`, *optional*): What messages call the images; by default `images[3]`.
            input_data_format (`str`, *optional*): Where arrays and tensors have their channels, `"channels_first"` or
                `"channels_last"`; by default their shapes tell.
            device (`str` or `torch.device`, *optional*): Where to put the result, with `return_tensors="pt"`.
            settings: Settings that replace the saved ones for this call, and those of transformers' `ImagesKwargs`;
                those that FAFA cannot honour are refused.

        Returns:
            `BatchFeature` with `pixel_values`, float32 of shape (num_images, 3, size, size); one image gives a batch
            of one.

        Raises:
            As `open_image`, naming the image; `ValueError` for an empty batch, another number of names, or a device
            without `return_tensors="pt"`; `TypeError` for a setting that is unknown or cannot be honoured.
        """
        given = {name: value for name, value in self._refuse_foreign(settings).items() if value is not None}
        if given:
            changed = type(self)(**{**self.to_dict(), **given})
            return changed.preprocess(images, return_tensors, names, input_data_format, device)
        if device is not None and return_tensors != "pt":
            raise ValueError(f"device={str(device)!r} is for tensors: give return_tensors='pt', too.")
        images = _as_batch(images)
        if names is not None and len(names) != len(images):
            raise ValueError(f"names: {len(names)} for {len(images)} images. Expected one each.")
        squares = []
        for index, image in enumerate(images):
            name = f"images[{index}]" if names is None else str(names[index])
            crop = self.to_person_crop(_in_layout(image, input_data_format, name), name)
            squares.append(self.to_square(crop))
        inputs = BatchFeature({"pixel_values": self.to_pixel_values(squares)}, tensor_type=return_tensors)
        return inputs if device is None else inputs.to(device)

    def to_person_crop(self, image: Any, name: str = "image") -> Image.Image:
        """Opens an image (see `open_image`) and resizes it to `person_size`, where training augments it."""
        opened = open_image(image, name, self.enough_pixels)
        if not self.do_person_resize:
            self._check_square(opened, image, name)
            return opened
        return self._resize(opened, (self.person_size.width, self.person_size.height))

    @property
    def enough_pixels(self) -> tuple[int, int] | None:
        """Width and height that are enough, for `open_image`; `None` if pixels must be exact."""
        if not self.draft_photographs:
            return None
        size = self.person_size if self.do_person_resize else self.size
        return int(_DRAFT_MARGIN * size.width), int(_DRAFT_MARGIN * size.height)

    def to_square(self, crop: Image.Image) -> np.ndarray:
        """Pads an RGB person crop to a square and resizes it to the model's input: uint8 (size, size, 3)."""
        side = self.size.height
        if not self.do_pad_square:
            return np.asarray(self._resize(crop, (side, side)))
        if squared := self._to_square_in_part(crop):
            return np.asarray(squared)
        square = _pad_to_square(crop)
        # The shorter edge to `side`, then the middle: the same as a plain resize unless the padding left the image
        # a pixel short of square.
        shorter = min(square.size)
        square = self._resize(square, (side * square.width // shorter, side * square.height // shorter))
        left, top = round((square.width - side) / 2), round((square.height - side) / 2)
        return np.asarray(square)[top : top + side, left : left + side]

    def _to_square_in_part(self, crop: Image.Image) -> Image.Image | None:
        """The same without resizing most of the black; None where input and output have no pixels' edges in common.

        With 384 x 192 pixels in a square of 384, which becomes one of 224, edges are common every 12 pixels (7 of the
        output): of the 96 black columns on either side, 12 take part, and the others stay black.
        """
        (width, height), side, longer = crop.size, self.size.height, max(crop.size)
        common = math.gcd(longer, side)
        reach = math.ceil(2 * _FILTER_REACH * max(1, longer / side))  # columns that a column beside a person looks at
        bars = [(longer - width) / 2, (longer - height) / 2]
        steps = [max(0, int(bar - reach) * common // longer) for bar in bars]
        if not any(steps) or not all(bar.is_integer() for bar in bars):
            return None
        black = Image.new("RGB", [longer - 2 * step * longer // common for step in steps])
        black.paste(crop, [int(bar) - step * longer // common for bar, step in zip(bars, steps, strict=True)])
        part = self._resize(black, tuple(side - 2 * step * side // common for step in steps))
        square = Image.new("RGB", (side, side))
        square.paste(part, [step * side // common for step in steps])
        return square

    def to_pixel_values(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Rescales and normalises: uint8 images (size, size, 3) to float32 (num_images, 3, size, size)."""
        # A table of what each of the 256 levels of a channel becomes is faster than arithmetic, and has equal bits.
        levels = np.arange(256) * (self.rescale_factor if self.do_rescale else 1)
        levels = np.tile(levels.astype(np.float32), (3, 1))
        if self.do_normalize:
            levels -= np.reshape(self.image_mean, (-1, 1)).astype(np.float32)
            levels /= np.reshape(self.image_std, (-1, 1)).astype(np.float32)
        pixel_values = np.empty((len(squares), 3, *squares[0].shape[:2]), dtype=np.float32)
        for square, planes in zip(squares, pixel_values, strict=True):
            for channel in range(3):
                np.take(levels[channel], square[:, :, channel], out=planes[channel], mode="clip")
        return pixel_values

    def _check_square(self, opened: Image.Image, image: Any, name: str) -> None:
        """Refuses a strip that would take gigabytes once it is padded to a square."""
        side = max(opened.size)
        if self.do_pad_square and side**2 > MAX_PIXELS:
            path = image.get("path") if isinstance(image, Mapping) else image
            path = os.fsdecode(path) if isinstance(path, (str, os.PathLike)) else None
            size = f"has {opened.width:,} x {opened.height:,} pixels and would be padded to {side:,} x {side:,}"
            raise refused_image(name, path, f"{size}: shrink or cut it, or set do_person_resize=True")

    def _resize(self, image: Image.Image, target: tuple[int, int]) -> Image.Image:
        return image if image.size == target else image.resize(target, self.resample)

    def _refuse_foreign(self, settings: dict[str, Any]) -> dict[str, Any]:
        """This class's own settings. Those of transformers are left out if they ask for what is done anyway."""
        own = self.valid_kwargs.__annotations__
        for name, value in settings.items():
            if name in own or (value is None and name in ImagesKwargs.__annotations__) or name == "disable_grouping":
                continue  # the last is about torchvision's speed, and decides nothing
            has = f"FafaImageProcessor has {', '.join(own)}"
            if name in _OPTIONS_OF_A_CALL:
                raise TypeError(f"{name} is an option of a call, and is not saved; {has}.")
            if name not in _FIXED_SETTINGS:
                raise TypeError(f"unknown setting {name}{meant(name, own, '; ')}; {has}.")
            expected, reason = _FIXED_SETTINGS[name]
            if getattr(value, "value", value) != expected:
                raise TypeError(f"{name}={value!r:.60} cannot be honoured: {reason}; {has}.")
        return {name: value for name, value in settings.items() if name in own}

    def _standardize_kwargs(self, person_size: Any = None, **kwargs) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(default_to_square=True, **kwargs)
        kwargs["person_size"] = SizeDict(**get_size_dict(person_size, param_name="person_size"))
        for name in ("person_size", "size"):
            if not (kwargs[name] and kwargs[name].height and kwargs[name].width):
                raise ValueError(
                    f'{name}: expected {{"height": ..., "width": ...}}, got {kwargs[name] and dict(kwargs[name])}.'
                )
            for side, pixels in dict(kwargs[name]).items():
                if type(pixels) is not int or not 1 <= pixels <= _MOST_PIXELS:
                    raise ValueError(f"{name}: expected a {side} from 1 to {_MOST_PIXELS} pixels, got {pixels!r:.40}.")
        if kwargs["size"].height != kwargs["size"].width:
            raise ValueError(f"size: the model reads squares, got {dict(kwargs['size'])}.")
        _check_values(kwargs)
        return kwargs


def _check_values(settings: dict[str, Any]) -> None:
    """Refuses by name what would fail later, at the first image."""
    for name, hint in FafaImageProcessorKwargs.__annotations__.items():
        value = settings.get(name)
        if hint == bool | None and not (value is None or isinstance(value, bool)):
            raise ValueError(f"{name}: expected true or false, got {value!r}.")
    filters = list(PILImageResampling)
    if settings.get("resample") is not None and settings["resample"] not in filters:
        raise ValueError(f"resample: expected one of {', '.join(map(str, filters))}, got {settings['resample']!r}.")
    for name in ("image_mean", "image_std", "rescale_factor"):
        if (value := settings.get(name)) is None:
            continue
        values, counts = list(np.ravel(value)), (1,) if name == "rescale_factor" else (1, 3)
        if len(values) not in counts or not all(isinstance(one, Real) and abs(one) < 1e9 for one in values):
            one_each = "" if name == "rescale_factor" else " or three, one a channel"
            raise ValueError(f"{name}: expected a finite number{one_each}, got {value!r:.100}.")
        if name != "image_mean" and min(values) <= 0:
            raise ValueError(f"{name}: expected numbers above 0, got {value!r}.")


def _in_layout(image: Any, layout: str | None, name: str) -> Any:
    """An array or tensor of known layout as an array with channels last; anything else as it is."""
    layout = getattr(layout, "value", layout)
    if layout not in (None, "none", "channels_first", "channels_last"):
        raise ValueError(f"input_data_format: expected 'channels_first' or 'channels_last', got {layout!r:.60}.")
    is_tensor = is_torch_tensor(image)
    if layout in (None, "none") or not (is_tensor or isinstance(image, np.ndarray)) or image.ndim != 3:
        return image
    array = image.numpy(force=True) if is_tensor else image
    if layout == "channels_first":
        array = np.moveaxis(array, 0, -1)
    if not 1 <= array.shape[2] <= 4:
        raise ValueError(f"{name}: an array of shape {tuple(image.shape)} has no channels where {layout!r} says.")
    return array


def _as_batch(images: Any) -> Sequence[Any]:
    is_sequence = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
    is_batch = images.ndim == 4 if isinstance(images, np.ndarray) or is_torch_tensor(images) else is_sequence
    if is_batch and len(images) == 0:
        raise ValueError("images is empty. Expected at least one image.")
    return images if is_batch else [images]


def _pad_to_square(image: Image.Image) -> Image.Image:
    """Adds as much black on either side, so that an odd difference leaves the image a pixel short of square."""
    width, height = image.size
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    if left == top == 0:
        return image
    square = Image.new("RGB", (width + 2 * left, height + 2 * top))
    square.paste(image, (left, top))
    return square


__all__ = ["FafaImageProcessor"]
