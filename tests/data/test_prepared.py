import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data import prepared, sources
from mnemonics_tf.data.source import InMemorySource
from mnemonics_tf.data.sources import SourceOptions
from mnemonics_tf.errors import UserError

NAMES = ["ant", "bee", "cow"]


def examples(count: int, size: int | None, seed: int) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {
            "image": np.full((size or 20 + i, size or 30, 3), 10 * i + seed, np.uint8),
            "label": int(label),
        }
        for i, label in enumerate(random.permutation(np.arange(count) % 3))
    ]


def prepare(folder: pathlib.Path, size: int | None, features: dict | None = None) -> dict:
    import tensorflow_datasets as tfds

    parts = {"train": examples(10, size, 0), "test": examples(5, size, 1)}
    image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
    features = features or {"image": image, "label": tfds.features.ClassLabel(names=NAMES)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="made_up",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: list(enumerate(part)) for split, part in parts.items()},
        data_dir=str(folder),
    )
    return parts


@pytest.mark.parametrize("size", [12, None], ids=["in memory", "by place"])
def test_a_set_by_its_name(tmp_path, size):
    parts = prepare(tmp_path, size)
    options = SourceOptions(image_size=0 if size else 20)
    source = sources.create("tfds:made_up", str(tmp_path), False, options)
    assert isinstance(source, InMemorySource) == bool(size)
    assert source.class_names == tuple(NAMES)
    for c in range(3):
        for found, part in ((source.training_set([c]), "train"), (source.test_set([c]), "test")):
            expected = sorted(e["image"][0, 0, 0] for e in parts[part] if e["label"] == c)
            assert sorted(found.load_all()[:, 5, 5, 0].tolist()) == expected


def test_records_are_read_through_only_once(tmp_path, monkeypatch):
    prepare(tmp_path, None)
    options = SourceOptions(image_size=20)
    first = sources.create("tfds:made_up", str(tmp_path), False, options)
    monkeypatch.setattr(prepared, "_records", None)
    again = sources.create("tfds:made_up", str(tmp_path), False, options)
    np.testing.assert_array_equal(
        again.training_set([2, 0]).load_all(), first.training_set([2, 0]).load_all()
    )


def test_records_that_are_cut_short(tmp_path):
    prepare(tmp_path, None)
    (file,) = tmp_path.glob("made_up/1.0.0/*train*")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short"):
        sources.create("tfds:made_up", str(tmp_path), False, SourceOptions(image_size=20))


def test_a_set_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no data of made_up .*--download"):
        sources.create("tfds:made_up", str(tmp_path), False)


def test_a_set_of_another_kind(tmp_path):
    import tensorflow_datasets as tfds

    prepare(tmp_path, 12, {"image": tfds.features.Image(), "label": tf.int64})
    with pytest.raises(UserError, match="expected an image .* class"):
        sources.create("tfds:made_up", str(tmp_path), False)
