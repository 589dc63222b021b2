"""Image files for tests: making them, and how most tests open them."""

import io
import os
import pathlib

import numpy as np
from PIL import Image

from mnemonics_tf.settings import DataSettings

#: what most tests open a folder with
OPTIONS = DataSettings(image_size=16, skip_broken=False, test_share=0.25, split_seed=1)

#: images in the folders of classes that are split already
SPLIT = {"train/cat": 4, "train/dog": 3, "val/cat": 2, "val/dog": 1}


def keys(images) -> list[str]:
    """The names of a set's files below the folder of the data."""
    return [os.fsdecode(key) for key in images._keys]


def smooth_image(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """Returns an RGB image without sharp edges, which JPEG keeps well."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, form: str, **options) -> bytes:
    """Returns the file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def make_folder(
    root: pathlib.Path, counts: dict[str, int], size: tuple[int, int] = (20, 16)
) -> pathlib.Path:
    """Writes `counts[folder]` JPEG files into each folder below `root`."""
    for number, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            image = smooth_image(*size, seed=1000 * number + i)
            (root / folder / f"{i:03d}.JPEG").write_bytes(encode(image, "JPEG"))
    return root
