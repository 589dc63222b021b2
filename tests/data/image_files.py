"""Makes image files for tests."""

import io
import pathlib

import numpy as np
from PIL import Image


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
