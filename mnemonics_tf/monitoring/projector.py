"""Files for TensorBoard's embedding projector: exemplars among images of their classes."""

import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins.projector import projector_config_pb2

from mnemonics_tf.run.files import in_order_of_numbers, write_atomically, write_text

#: longest side of an image in the sprite; larger ones are shrunk
_SPRITE_SIDE = 48


def write_embedding(
    directory: pathlib.Path,
    name: str,
    features: np.ndarray,
    images: np.ndarray,
    columns: Mapping[str, Sequence[str]],
) -> None:
    """Adds one embedding to those that the projector offers for a log directory.

    Args:
        directory: of the event files.
        name: of the embedding; one of the same name is replaced.
        features: the points, `[n, d]`.
        images: shown at the points, uint8 `[n, h, w, c]`.
        columns: what is known of each point, by name; two columns or more.
    """
    folder = directory / "projector" / name
    write_text(
        folder / "features.tsv", _lines(["\t".join(f"{v:.5g}" for v in f) for f in features])
    )
    rows = zip(*columns.values(), strict=True)
    lines = ["\t".join(_plain(cell) for cell in row) for row in [list(columns), *rows]]
    write_text(folder / "metadata.tsv", _lines(lines))
    sprite, side = _sprite(images)
    write_atomically(folder / "sprite.png", lambda stream: stream.write(sprite))
    _write_config(directory, side)


def _write_config(directory: pathlib.Path, side: tuple[int, int]) -> None:
    config = projector_config_pb2.ProjectorConfig()
    folders = list((directory / "projector").iterdir())
    for folder in sorted(folders, key=lambda folder: in_order_of_numbers(folder.name)):
        relative = f"projector/{folder.name}"
        embedding = config.embeddings.add()
        embedding.tensor_name = folder.name
        embedding.tensor_path = f"{relative}/features.tsv"
        embedding.metadata_path = f"{relative}/metadata.tsv"
        embedding.sprite.image_path = f"{relative}/sprite.png"
        embedding.sprite.single_image_dim.extend(side)
    # Newest first: it is what the projector opens.
    newest_first = list(config.embeddings)[::-1]
    ordered = projector_config_pb2.ProjectorConfig(embeddings=newest_first)
    write_text(directory / "projector_config.pbtxt", text_format.MessageToString(ordered))


def _sprite(images: np.ndarray) -> tuple[bytes, tuple[int, int]]:
    """Returns a PNG of all images in a square grid, row by row, and an image's width and height."""
    factor = _SPRITE_SIDE / max(images.shape[1:3])
    if factor < 1:
        size = [max(1, round(side * factor)) for side in images.shape[1:3]]
        resized = tf.image.resize(images, size, antialias=True)
        images = tf.saturate_cast(tf.round(resized), tf.uint8).numpy()
    count, height, width, channels = images.shape
    across = math.ceil(math.sqrt(count))
    grid = np.zeros((across * across, height, width, channels), np.uint8)
    grid[:count] = images
    grid = grid.reshape(across, across, height, width, channels).transpose(0, 2, 1, 3, 4)
    sheet = grid.reshape(across * height, across * width, channels)
    return tf.io.encode_png(sheet).numpy(), (width, height)


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _plain(text: str) -> str:
    """Returns text without what ends a cell or a row."""
    return " ".join(str(text).split())
