import numpy as np
import pytest

from mnemonics_tf.data import sources
from mnemonics_tf.errors import UserError


def arrays(**changes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    good = {
        "x_train": random.integers(0, 256, (12, 6, 5, 3), np.uint8),
        "y_train": np.tile([7, 2, 40], 4),
        "x_test": random.integers(0, 256, (6, 6, 5, 3), np.uint8),
        "y_test": np.tile([40, 2, 7], 2)[:, None],
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def load(folder, **changes):
    path = folder / "data.npz"
    np.savez(path, **arrays(**changes))
    return sources.create("npz", str(path), False)


def test_a_good_file(tmp_path):
    source, given = load(tmp_path), arrays()
    assert source.class_names == ("2", "7", "40")
    assert source.image_shape == (6, 5, 3)
    np.testing.assert_array_equal(source.training_set([2]).images, given["x_train"][2::3])
    np.testing.assert_array_equal(source.test_set([2]).images, given["x_test"][0::3])
    pixels = given["x_train"] / 255
    np.testing.assert_allclose(source.channel_mean, pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(source.channel_std, pixels.std((0, 1, 2)))


def test_grey_images_without_a_channel(tmp_path):
    grey = {f"x_{part}": arrays()[f"x_{part}"][..., 0] for part in ("train", "test")}
    source = load(tmp_path, **grey)
    assert source.image_shape == (6, 5, 1)
    assert source.augmentation == "shift"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, "expected x_train, y_train, x_test, y_test"),
        ({"x_train": np.zeros((12, 6, 5, 3))}, "x_train is float64"),
        ({"x_train": np.zeros((12, 6, 5, 4), np.uint8)}, "x_train is uint8"),
        ({"x_test": np.zeros((6, 5, 5, 3), np.uint8)}, "expected the same"),
        ({"y_train": np.zeros(11, int)}, r"y_train is int64 \(11,\) beside 12 images"),
        ({"y_train": np.zeros(12)}, "y_train is float64"),
        ({"y_test": np.arange(6)}, "expected the same classes"),
        ({"y_test": np.full(6, 2)}, "no test images of 7, 40"),
        ({"y_train": np.array([{}] * 12, object)}, "damaged or no array file"),
    ],
)
def test_files_of_another_form(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, **changes)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="missing"):
        sources.create("npz", str(tmp_path / "none.npz"), False)


def test_images_of_one_size_are_not_resized(tmp_path):
    options = sources.SourceOptions(image_size=32)
    with pytest.raises(UserError, match="--image_size=32"):
        sources.create("npz", str(tmp_path / "none.npz"), False, options)
