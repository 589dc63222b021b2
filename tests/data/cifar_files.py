"""CIFAR-100 in small, in every form that it comes in."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from mnemonics_tf.data import cifar

NAMES = ["apple", "bee", "cloud"]
IMAGES_PER_CLASS = {"train": 4, "test": 2}
FORMS = ["cifar-100-python", "cifar-100-binary"]
PACKINGS = ["", ".tar.gz", ".tar.xz"]


def make_parts(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns split -> pixels uint8 `[n, 3072]` as in the official files, fine labels `[n]`."""
    random = np.random.RandomState(seed)
    parts = {}
    for split, count in IMAGES_PER_CLASS.items():
        labels = random.permutation(np.repeat(np.arange(len(NAMES), dtype=np.uint8), count))
        parts[split] = random.randint(256, size=(len(labels), 3072)).astype(np.uint8), labels
    return parts


def python_files(parts) -> dict[str, bytes]:
    files = {
        split: pickle.dumps({b"data": pixels, b"fine_labels": labels.tolist()})
        for split, (pixels, labels) in parts.items()
    }
    return {**files, "meta": pickle.dumps({b"fine_label_names": [n.encode() for n in NAMES]})}


def binary_files(parts) -> dict[str, bytes]:
    files = {}
    for split, (pixels, labels) in parts.items():
        records = np.concatenate([labels[:, None] // 2, labels[:, None], pixels], axis=1)
        files[f"{split}.bin"] = records.tobytes()
    return {**files, "fine_label_names.txt": ("\n".join(NAMES) + "\n\n").encode()}


def files_of(form: str, parts) -> dict[str, bytes]:
    return python_files(parts) if form == "cifar-100-python" else binary_files(parts)


def contents_of(files: dict[str, bytes]) -> cifar.Contents:
    md5 = {member: hashlib.md5(data).hexdigest() for member, data in files.items()}
    return cifar.Contents(len(NAMES), IMAGES_PER_CLASS, md5)


def put(folder: Path, form: str, packing: str, files: dict[str, bytes]) -> Path:
    """Writes `files` as a folder (no packing) or as an archive, and returns its path."""
    path = folder / (form + packing)
    if not packing:
        path.mkdir()
        for member, data in files.items():
            (path / member).write_bytes(data)
        return path
    with tarfile.open(path, "w:" + packing.rpartition(".")[2]) as tar:
        for member, data in files.items():
            entry = tarfile.TarInfo(f"{form}/{member}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def prepare_with_tfds(folder: Path, parts, file_format: str = "tfrecord", version: str = "3.0.2"):
    import tensorflow_datasets as tfds

    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=NAMES),
    }
    examples = {}
    for split, (pixels, labels) in parts.items():
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        examples[split] = [
            (i, {"id": f"{split}_{i:05d}", "image": image, "label": label})
            for i, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="cifar100",
        version=version,
        features=tfds.features.FeaturesDict(features),
        split_datasets=examples,
        data_dir=folder,
        file_format=file_format,
    )


def load(place: Path, files: dict[str, bytes] | None = None) -> cifar.Cifar100:
    files = python_files(make_parts()) if files is None else files
    return cifar.load_cifar100(str(place), False, contents_of(files))


def assert_holds(source: cifar.Cifar100, parts) -> None:
    assert source.class_names == tuple(NAMES)
    assert source.image_shape == (32, 32, 3)
    for split, images_of in [("train", source.training_set), ("test", source.test_set)]:
        pixels, labels = parts[split]
        expected = [
            image.reshape(3, 32, 32).transpose(1, 2, 0)
            for c in (2, 0, 1)
            for image in pixels[labels == c]
        ]
        np.testing.assert_array_equal(images_of([2, 0, 1]).images, expected)
