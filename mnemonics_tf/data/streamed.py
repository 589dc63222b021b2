"""A source of images that stay on disk, in files or in records, until they are asked for."""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np

from mnemonics_tf.data.encoded import CENTRE_CROP, EncodedImageSet, View
from mnemonics_tf.data.source import HoldingSource
from mnemonics_tf.data.storage import Storage
from mnemonics_tf.monitoring.progress import watched

#: of x / 255 over ImageNet's training images: the constants that LUCIR and most others use
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: so many files of a part are read for its digest, and one of each class at least
_SAMPLED = 2000


@dataclasses.dataclass(frozen=True)
class Files:
    """The images of one class.

    Attributes:
        keys: what `Storage.read` takes, `[n, ...]`.
        by_pillow: bool `[n]`, which ones TensorFlow can't decode rightly.
    """

    keys: np.ndarray
    by_pillow: np.ndarray

    @classmethod
    def plain(cls, keys: np.ndarray) -> "Files":
        """Returns files that are all known to be JPEG or PNG."""
        return cls(keys, np.zeros(len(keys), bool))

    def __len__(self) -> int:
        return len(self.by_pillow)


class StreamedSource(HoldingSource[Files, EncodedImageSet]):
    """A source that knows where its images are and decodes them when they are used.

    Args:
        name: in the registry.
        class_names: in the order of the original class ids.
        training: where training images are read from, and each class's, by original id.
        test: the same for the test part.
        view: what becomes of the images.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        training: tuple[Storage, Mapping[int, Files]],
        test: tuple[Storage, Mapping[int, Files]],
        view: View,
    ):
        super().__init__(training[1], test[1])
        self.name = name
        self.class_names = tuple(class_names)
        self.image_shape = view.image_shape
        colour = view.channels == 3
        self.channel_mean = IMAGENET_MEAN if colour else (float(np.mean(IMAGENET_MEAN)),)
        self.channel_std = IMAGENET_STD if colour else (float(np.mean(IMAGENET_STD)),)
        # Small images are cropped as CIFAR's are: a twelfth of their area would show nothing.
        # Grey ones are mostly written signs, which a mirror changes.
        whole = "crop_mirror" if colour else "shift"
        self.augmentation = whole if view.centre == 1 else "resized_crop_mirror"
        self.fit_image = view.fit
        self.fitting = f"the middle {view.centre:.1%} of images of any size"
        self._view = view
        self._storage = {"training": training[0], "test": test[0]}

    def _digest(self, part: str) -> str:
        """Returns a hash of what the storage tells of each class; it says what that can miss."""
        storage, files = self._storage[part], self._held[part]
        sampled = -(-_SAMPLED // len(self.original_ids))
        hasher = hashlib.blake2b(digest_size=16)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            all_keys = [files[c].keys for c in self.original_ids]
            digests = pool.map(lambda keys: storage.digest(keys, sampled), all_keys)
            for digest in watched(digests, len(all_keys), f"{part} images, digest of class"):
                hasher.update(digest)
        return f"{storage.digest_kind}-{hasher.hexdigest()}"

    def _gather(self, part: str, classes: Sequence[int]) -> EncodedImageSet:
        chosen = [self._held[part][c] for c in classes]
        return EncodedImageSet(
            self._storage[part],
            np.concatenate([f.keys for f in chosen]) if chosen else np.empty(0, "S1"),
            np.repeat(np.asarray(classes, np.int32), [len(f) for f in chosen]),
            self._view,
            np.concatenate([f.by_pillow for f in chosen]) if chosen else np.empty(0, bool),
        )


def view_of(image_size: int, channels: int = 3) -> View:
    """Returns the view for an image size: ImageNet's crops above 64 pixels, else whole images."""
    return View(image_size, CENTRE_CROP if image_size > 64 else 1.0, channels)
