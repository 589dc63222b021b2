"""JPEG as a function with a derivative: what a file's pixels become, for exemplars that learn.

    decoded = relaxed_jpeg(images, luminance, chrominance)

Rounding has a derivative of zero almost everywhere. Here it passes derivatives on unchanged, the
straight-through estimator (Bengio, Leonard and Courville, 2013, arXiv:1308.3432); what it returns
is rounded all the same. The rest of baseline JPEG (ITU-T Recommendation T.81, Annexes A and F;
colours as in JFIF) is linear, but for clipping.
"""

import numpy as np
import tensorflow as tf

_BLOCK = 8
_LARGEST = 255.0
_CENTRE = 128.0
#: RGB to YCbCr (JFIF 1.02): a row for each of Y, Cb, Cr
_TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)


def relaxed_jpeg(images: tf.Tensor, luminance: np.ndarray, chrominance: np.ndarray) -> tf.Tensor:
    """Returns what baseline JPEG with colours at half the resolution makes of images.

    Differs from a file's pixels by less than two grey levels on average on photographs, and by up
    to four on coloured noise: decoders round in integers, and upscale colours at an image's edge by
    what lies beyond it.

    Args:
        images: of pixels from 0 to 255, float `[n, h, w, c]` with 1 or 3 channels.
        luminance: quantisation table `[8, 8]`, rows are vertical frequencies.
        chrominance: the same, of colours.

    Returns:
        Whole numbers from 0 to 255, of the shape and type of the images.
    """
    pixels = _rounded(_brought_into_range(images))
    height, width, channels = pixels.shape[1:]
    if channels == 1:
        plane = _padded(pixels, _BLOCK)[..., 0]
        decoded = _through_blocks(plane, luminance)[..., None]
        return _rounded(_clipped(decoded[:, :height, :width]))
    weights = tf.constant(_TO_YCBCR.T, pixels.dtype)
    planes = _padded(pixels, 2 * _BLOCK) @ weights
    light = _through_blocks(planes[..., 0], luminance)
    # Colours are stored around the centre of the range, which is zero here.
    halved = tf.nn.avg_pool2d(planes[..., 1:], 2, 2, "VALID") + _CENTRE
    colours = [_clipped(_through_blocks(halved[..., k], chrominance)) for k in range(2)]
    decoded = tf.stack([light, *(_doubled(plane) - _CENTRE for plane in colours)], axis=-1)
    decoded = decoded @ tf.constant(np.linalg.inv(_TO_YCBCR).T, pixels.dtype)
    return _rounded(_clipped(decoded[:, :height, :width]))


def _cosines() -> np.ndarray:
    """Returns the orthonormal discrete cosine transform of type II, `[frequency, place]`."""
    frequency, place = np.meshgrid(np.arange(_BLOCK), np.arange(_BLOCK), indexing="ij")
    basis = np.cos((2 * place + 1) * frequency * np.pi / (2 * _BLOCK)) / 2
    basis[0] /= np.sqrt(2)
    return basis


def _through_blocks(plane: tf.Tensor, table: np.ndarray) -> tf.Tensor:
    """Returns a plane `[n, h, w]`, whole blocks, after its coefficients were quantised."""
    basis, steps = tf.constant(_cosines(), plane.dtype), tf.constant(table, plane.dtype)
    height, width = plane.shape[1:]
    shape = [-1, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK]
    blocks = tf.transpose(tf.reshape(plane - _CENTRE, shape), [0, 1, 3, 2, 4])
    coefficients = basis @ blocks @ tf.transpose(basis)
    quantised = _rounded(coefficients / steps) * steps
    blocks = tf.transpose(basis) @ quantised @ basis
    return tf.reshape(tf.transpose(blocks, [0, 1, 3, 2, 4]), tf.shape(plane)) + _CENTRE


def _doubled(plane: tf.Tensor) -> tf.Tensor:
    """Returns a plane `[n, h, w]` at twice its size, linearly interpolated ("fancy upsampling")."""
    rows, columns = (tf.constant(_interpolation(size), plane.dtype) for size in plane.shape[1:])
    return rows @ plane @ tf.transpose(columns)


def _interpolation(size: int) -> np.ndarray:
    """Returns the weights of so many values in twice as many, `[2 size, size]`."""
    weights = np.zeros([2 * size, size])
    nearest = np.arange(2 * size) // 2
    next_to = np.clip(nearest + np.tile([-1, 1], size), 0, size - 1)
    np.add.at(weights, (np.arange(2 * size), nearest), 0.75)
    np.add.at(weights, (np.arange(2 * size), next_to), 0.25)
    return weights


def _padded(images: tf.Tensor, multiple: int) -> tf.Tensor:
    """Returns images with whole blocks: their last row and column come again, as in encoders."""
    for axis in (1, 2):
        size = images.shape[axis]
        places = np.minimum(np.arange(-(-size // multiple) * multiple), size - 1)
        images = tf.gather(images, places, axis=axis)
    return images


def _clipped(images: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(images, 0.0, _LARGEST)


def _brought_into_range(images: tf.Tensor) -> tf.Tensor:
    """Clips, with the derivative of the identity.

    Normalised and back, black may be less than zero by a rounding, and must stay free to move.
    """
    return images + tf.stop_gradient(_clipped(images) - images)


def _rounded(values: tf.Tensor) -> tf.Tensor:
    """Rounds, with the derivative of the identity."""
    return values + tf.stop_gradient(tf.round(values) - values)
