import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from mnemonics_tf.data import npz, sources
from mnemonics_tf.data.measured import MeasuredSource
from mnemonics_tf.errors import UserError
from mnemonics_tf.phases.asked_for import make_protocol
from mnemonics_tf.settings import DataSettings, ProtocolSettings, Settings


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
    np.testing.assert_array_equal(source.training_set([40]).images, given["x_train"][2::3])
    np.testing.assert_array_equal(source.test_set([40]).images, given["x_test"][0::3])
    pixels = given["x_train"] / 255
    np.testing.assert_allclose(source.channel_mean, pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(source.channel_std, pixels.std((0, 1, 2)))


def test_mean_and_deviation_are_exact_and_take_no_copy_of_a_class():
    """Runs note them, and compare them when they go on."""
    images = np.random.default_rng(0).integers(0, 256, (500, 32, 32, 3), np.uint8)
    source = MeasuredSource("a", {0: images, 1: images[:7]}, {}, ["a", "b"])
    both, axes = np.concatenate([images, images[:7]]), (0, 1, 2)
    mean = both.sum(axes, np.float64) / both[..., 0].size
    squares = np.square(both, dtype=np.float64).sum(axes) / both[..., 0].size
    std = np.sqrt(squares - mean**2)
    tracemalloc.start()
    try:
        found = source.statistics_of([0, 1])
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == (tuple(mean / 255), tuple(std / 255))
    assert taken < images.nbytes / 2


def test_one_class_alone(tmp_path):
    one = {name: np.full(len(arrays()[name]), 7) for name in ("y_train", "y_test")}
    assert load(tmp_path, **one).class_names == ("7",)


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


def test_labels_are_the_original_ids(tmp_path):
    """The ids that reports and exports name, and that --class_order takes."""
    source = load(tmp_path)
    assert source.original_ids == (2, 7, 40)
    assert source.training_set([40, 2]).labels.tolist() == [40] * 4 + [2] * 4
    assert source.names_of([40, 2]) == ["40", "2"]
    assert source.training_counts_of([40, 7]).tolist() == [4, 4]
    wanted = ProtocolSettings(dataset="npz", base_classes=1, num_phases=2, class_order=(40, 7, 2))
    settings = Settings(protocol=wanted)
    protocol = make_protocol(settings, 3, source.class_names, source.original_ids)
    assert protocol.original_ids([0, 2]) == [40, 2]
    assert protocol.labels_of(np.array([2, 40, 7])).tolist() == [2, 0, 1]
    with pytest.raises(LookupError, match="npz has 2, 7, 40"):
        source.training_set([0])


def test_labels_of_more_than_32_bits(tmp_path):
    labels = {"y_train": np.tile([7, 2, 2**40], 4), "y_test": np.tile([2**40, 2, 7], 2)}
    with pytest.raises(UserError, match="expected numbers of 32 bits"):
        load(tmp_path, **labels)


def test_compressed_files_are_read(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", **arrays(), thumbnails=np.array([{}], object))
    source = sources.create("npz", str(tmp_path / "data.npz"), False)
    np.testing.assert_array_equal(source.training_set([7]).images, arrays()["x_train"][0::3])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_other_names_are_not_read_and_told_of(tmp_path, save, caplog):
    more = {"x_val": np.zeros((2, 6, 5, 3), np.uint8), "about": np.array([{"by": "me"}], object)}
    save(tmp_path / "data.npz", **arrays(), **more)
    source = sources.create("npz", str(tmp_path / "data.npz"), False)
    assert source.training_counts().tolist() == [4, 4, 4]
    assert "data.npz: x_val, about" in caplog.text
    save(tmp_path / "data.npz", **more)
    with pytest.raises(UserError, match="holds x_val, about; expected x_train, y_train"):
        sources.create("npz", str(tmp_path / "data.npz"), False)


def test_what_unpacks_to_far_more_than_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "_MAX_UNPACKED_BYTES", 2**20)
    images = np.zeros((12, 500, 500, 3), np.uint8)
    np.savez_compressed(tmp_path / "data.npz", **arrays(x_train=images))
    with pytest.raises(UserError, match="would unpack to 9.*np.savez "):
        sources.create("npz", str(tmp_path / "data.npz"), False)


def test_members_that_overlap(tmp_path):
    """An array that holds the bytes of the next one: a chain takes many times the file."""
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(tmp_path / "inner.npz", "w") as archive:
        archive.writestr("x_train.npy", npy(np.zeros((12, 60, 50, 3), np.uint8)))
        inner = archive.getinfo("x_train.npy")
    contents = np.frombuffer((tmp_path / "inner.npz").read_bytes(), np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", npy(np.zeros(1)))
        before = archive.start_dir
        archive.writestr("more.npy", npy(contents))
        inner.header_offset = before + len("more.npy") + 30 + len(npy(contents)) - len(contents)
        archive.filelist.append(inner)
    with pytest.raises(UserError, match="its members overlap"):
        sources.create("npz", str(path), False)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.array(["cat", "dog", "owl"]), ("cat", "dog", "owl")),
        (np.array([b"cat", b"dog", b"owl"]), ("cat", "dog", "owl")),
        (np.array([f"c{i}" for i in range(41)]), ("c2", "c7", "c40")),
    ],
)
def test_the_file_may_name_its_classes(tmp_path, given, expected):
    assert load(tmp_path, class_names=given).class_names == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.arange(3), "expected texts"),
        (np.array(["a", "b"]), "2 names for 3 classes"),
        (np.array(["a", "b", "a"]), "'a' stands for two classes"),
        (np.array(["a", "b\nc", "d"]), r"'b\\nc' has a line break"),
        (np.array([b"a", b"caf\xe9", b"d"]), "not UTF-8"),
    ],
)
def test_names_that_are_not_fit(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, class_names=given)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="missing"):
        sources.create("npz", str(tmp_path / "none.npz"), False)


def test_images_of_one_size_are_not_resized(tmp_path):
    options = DataSettings(image_size=32)
    with pytest.raises(UserError, match="--image_size=32"):
        sources.create("npz", str(tmp_path / "none.npz"), False, options)
