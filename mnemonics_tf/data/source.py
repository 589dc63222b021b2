"""What a data source is, and one that holds its images in memory."""

import abc
import copy
import functools
import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Generic, TypeVar

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet
from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.monitoring.progress import waiting_for

Held = TypeVar("Held", bound=Sized)
Images = TypeVar("Images", bound=ImageSet)

#: of every data set
PARTS = ("training", "test")

#: images that a source without a better way decodes for the digest of a part
_SAMPLED = 200


class ReleasedError(UserError, LookupError):
    """Training images are asked for that a run has let go."""


class DataSource(abc.ABC):
    """A data set with a training and a test part, handed out class by class.

    A source is the only holder of the training images: after `release` the images of a class can
    no longer be reached, which is what keeps class-incremental learning honest.

    Attributes:
        name: the name in the registry.
        class_names: of the classes in the order of their ids, texts of which no two are the same;
            how many there are is its length.
        original_ids: the data's own class ids, ascending; other code knows classes by these or by
            their labels, never by their place here.
        origin: where the images were found and which parts were taken, in words.
        image_shape: `(height, width, channels)`.
        channel_mean: mean of x/255, one per channel.
        channel_std: standard deviation of x/255, one per channel.
        augmentation: the training augmentation that suits the images: "none", "shift",
            "crop_mirror" or "resized_crop_mirror".
        fit_image: brings a decoded image, uint8 `[any, any, c]`, to `image_shape` as evaluation
            does; None where all images have that shape.
        fitting: the same in words, by which sources that do the same know each other.
    """

    name: str
    class_names: tuple[str, ...]
    origin: str = ""
    image_shape: tuple[int, int, int]
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    augmentation: str
    fit_image: Callable[[tf.Tensor], tf.Tensor] | None = None
    fitting: str = "images of one size"

    #: where the ids are not 0..K-1
    _original_ids: tuple[int, ...] | None = None

    @property
    def original_ids(self) -> tuple[int, ...]:
        """The data's own class ids, ascending: 0..K-1 unless the data has others."""
        return self._original_ids or tuple(range(len(self.class_names)))

    def names_of(self, classes: Sequence[int]) -> list[str]:
        """Returns the names of classes, given their original ids."""
        names = dict(zip(self.original_ids, self.class_names, strict=True))
        return [names[c] for c in classes]

    def training_counts_of(self, classes: Sequence[int]) -> np.ndarray:
        """Returns the number of training images of classes, given their original ids."""
        return self.training_counts()[np.searchsorted(self.original_ids, classes)]

    def only(self, classes: Sequence[int]) -> "DataSource":
        """Returns a source of some of the classes alone; its images are this one's.

        Args:
            classes: original class ids; of all there are it is this very source.
        """
        self._check_known(classes)
        if tuple(sorted(classes)) == self.original_ids:
            return self  # which may take digests of its own
        return _SomeOf(self, classes)

    def statistics_of(self, classes: Sequence[int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns mean and deviation of x/255 by which a run that begins with `classes` normalises.

        Sources that measure them take these classes alone: later ones are not known by then.

        Args:
            classes: original class ids, none of them released.

        Returns:
            One number a channel each; `channel_mean` and `channel_std` where these are constants.
        """
        return tuple(self.channel_mean), tuple(self.channel_std)

    @abc.abstractmethod
    def training_counts(self) -> np.ndarray:
        """Returns the number of training images of every class, released or not.

        Returns:
            int `[num_classes]`, in the order of `original_ids`.
        """

    @abc.abstractmethod
    def test_counts(self) -> np.ndarray:
        """Returns the number of test images of every class.

        Returns:
            int `[num_classes]`, in the order of `original_ids`.
        """

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """By part, `training` and `test`, what tells its images from others with the same names.

        A text `KIND-HASH`; of two kinds nothing follows. The same on every machine, wherever the
        data lies. First asked for while no training image has been released.
        """
        waiting_for(f"taking digests of the images of {printable(self.name)}")
        return {part: self._digest(part) for part in PARTS}

    def _digest(self, part: str) -> str:
        """Returns a hash of numbers of images and of the pixels of some, evenly spread.

        Sources that know their images better do better than this.
        """
        images = {"training": self.training_set, "test": self.test_set}[part](self.original_ids)
        rows = np.linspace(0, len(images) - 1, min(_SAMPLED, len(images))).astype(int)
        hasher = hashlib.blake2b(np.ascontiguousarray(images.labels, "<i4").data, digest_size=16)
        hasher.update(np.ascontiguousarray(images.subset(rows).load_all()).data)
        return f"samples-{hasher.hexdigest()}"

    @abc.abstractmethod
    def training_set(self, classes: Sequence[int]) -> ImageSet:
        """Returns the training images of `classes`, sorted by class in the order given.

        Args:
            classes: original class ids; they become the set's labels.

        Raises:
            LookupError: if a class does not exist or was released.
        """

    @abc.abstractmethod
    def test_set(self, classes: Sequence[int]) -> ImageSet:
        """Returns the test images of `classes`, sorted by class in the order given.

        Args:
            classes: original class ids; they become the set's labels.

        Raises:
            LookupError: if a class does not exist.
        """

    @abc.abstractmethod
    def release(self, classes: Sequence[int]) -> None:
        """Forgets the training images of `classes` for good; once more does no harm.

        Args:
            classes: original class ids.

        Raises:
            LookupError: if a class does not exist.
        """

    def released_of(self, classes: Sequence[int]) -> list[int]:
        """Returns those of classes whose training images were released, if the source can tell.

        Args:
            classes: original class ids.
        """
        return []

    def refuse_released(self, classes: Sequence[int]) -> None:
        """Refuses what `released_of` returns.

        Args:
            classes: original class ids.

        Raises:
            ReleasedError: tells which.
        """
        if released := self.released_of(classes):
            raise ReleasedError(
                f"the training images of the classes {ids_in_words(released)} were released: a "
                "data source serves one run, so open it anew for each"
            )

    def _check_known(self, classes: Sequence[int]) -> None:
        known = self.original_ids
        unknown = sorted(set(map(int, classes)) - set(known))
        if unknown:
            raise LookupError(
                f"classes {unknown} do not exist; {self.name} has {ids_in_words(known)}"
            )


class _SomeOf(DataSource):
    """Some of the classes of a source, whatever that computes its counts and images from.

    Args:
        whole: the source.
        classes: original class ids.
    """

    def __init__(self, whole: DataSource, classes: Sequence[int]):
        self._whole = whole
        self._original_ids = tuple(sorted(classes))
        self._places = np.searchsorted(whole.original_ids, self._original_ids)
        self.class_names = tuple(whole.names_of(self._original_ids))
        self.name, self.origin = whole.name, whole.origin
        self.image_shape, self.augmentation = whole.image_shape, whole.augmentation
        self.channel_mean, self.channel_std = whole.channel_mean, whole.channel_std
        self.fit_image, self.fitting = whole.fit_image, whole.fitting

    def statistics_of(self, classes: Sequence[int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self._whole.statistics_of(classes)

    def training_counts(self) -> np.ndarray:
        return self._whole.training_counts()[self._places]

    def test_counts(self) -> np.ndarray:
        return self._whole.test_counts()[self._places]

    def training_set(self, classes: Sequence[int]) -> ImageSet:
        self._check_known(classes)
        return self._whole.training_set(classes)

    def test_set(self, classes: Sequence[int]) -> ImageSet:
        self._check_known(classes)
        return self._whole.test_set(classes)

    def release(self, classes: Sequence[int]) -> None:
        self._check_known(classes)
        self._whole.release(classes)

    def released_of(self, classes: Sequence[int]) -> list[int]:
        return self._whole.released_of(classes)


class HoldingSource(DataSource, Generic[Held, Images]):
    """A source that holds what it has of each class apart from all others', and can forget it.

    Args:
        training: original class id -> what is held of its training images; their number is its
            length.
        test: the same for the test part.
    """

    def __init__(self, training: Mapping[int, Held], test: Mapping[int, Held]):
        self._original_ids = tuple(sorted(training))
        self._held = {"training": dict(training), "test": dict(test)}
        self._training_counts = {c: len(held) for c, held in training.items()}

    def only(self, classes: Sequence[int]) -> DataSource:
        self._check_known(classes)
        part = copy.copy(self)
        part.__dict__.pop("digests", None)
        part._original_ids = tuple(sorted(classes))
        part.class_names = tuple(self.names_of(part._original_ids))
        return part

    def training_counts(self) -> np.ndarray:
        return np.array([self._training_counts[c] for c in self.original_ids])

    def test_counts(self) -> np.ndarray:
        return np.array([len(self._held["test"][c]) for c in self.original_ids])

    def training_set(self, classes: Sequence[int]) -> Images:
        self._check_known(classes)
        self.refuse_released(classes)
        return self._gather("training", classes)

    def test_set(self, classes: Sequence[int]) -> Images:
        self._check_known(classes)
        return self._gather("test", classes)

    def release(self, classes: Sequence[int]) -> None:
        self._check_known(classes)
        for c in classes:
            self._held["training"].pop(c, None)

    def released_of(self, classes: Sequence[int]) -> list[int]:
        return sorted(c for c in classes if c not in self._held["training"])

    @abc.abstractmethod
    def _gather(self, part: str, classes: Sequence[int]) -> Images:
        """Returns the images of classes that are there, sorted by class in the order given."""


class InMemorySource(HoldingSource[np.ndarray, ArrayImageSet]):
    """A source whose images all lie decoded in memory.

    Every class owns its array, so that releasing a class frees its memory.

    Args:
        training: original class id -> uint8 `[n, h, w, c]`; the source takes the mapping's arrays.
        test: the same for the test part.
        class_names: in the order of the original class ids.
    """

    def __init__(
        self,
        training: Mapping[int, np.ndarray],
        test: Mapping[int, np.ndarray],
        class_names: Sequence[str],
    ):
        super().__init__(training, test)
        self.class_names = tuple(class_names)
        self.image_shape = tuple(training[self.original_ids[0]].shape[1:])

    def _digest(self, part: str) -> str:
        """Returns a hash of every pixel, class by class: nothing is missed."""
        images = self._held[part]
        hasher = hashlib.blake2b(digest_size=16)
        for c in self.original_ids:
            hasher.update(f"{c}:{images[c].shape};".encode())
            hasher.update(np.ascontiguousarray(images[c]).reshape(-1).data)
        return f"pixels-{hasher.hexdigest()}"

    def _gather(self, part: str, classes: Sequence[int]) -> ArrayImageSet:
        if not len(classes):
            return ArrayImageSet(np.empty((0, *self.image_shape), np.uint8), np.empty(0, np.int32))
        images = [self._held[part][c] for c in classes]
        # A copy even for a single class: a set that is still alive must not keep a released array.
        return ArrayImageSet(np.concatenate(images), np.repeat(classes, [len(i) for i in images]))


def split_by_class(images: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    """Returns every class's images as an array of its own, in the order they came.

    Args:
        images: uint8 `[n, h, w, c]`.
        labels: int `[n]`, original class ids.
    """
    return {int(c): np.ascontiguousarray(images[labels == c]) for c in np.unique(labels)}


def ids_in_words(ids: Sequence[int]) -> str:
    """Returns class ids as `0..9`, or the first of them where they do not follow each other."""
    if len(ids) > 2 and list(ids) == list(range(ids[0], ids[0] + len(ids))):
        return f"{ids[0]}..{ids[-1]}"
    return ", ".join(map(str, ids[:10])) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")


def check_class_names(names: Sequence[str], place: str, remedy: str) -> None:
    """Refuses names that are no texts, or that files of one name a line, in UTF-8, can't hold.

    At the end of a phase these would be met otherwise.

    Args:
        names: of the classes.
        place: where they come from, for the message.
        remedy: what to do, for the message.

    Raises:
        UserError: names the first one that is not fit.
    """
    seen = set()
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{place}: the class name {name!r} is no text: {remedy}")
        if not name.strip():
            problem = "is empty"
        elif any("\ud800" <= character <= "\udfff" for character in name):
            problem = "is not UTF-8"
        elif any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
            problem = "has a line break or another control character in it"
        elif name in seen:
            problem = "stands for two classes"
        else:
            seen.add(name)
            continue
        raise UserError(f"{place}: the class name '{printable(name)}' {problem}: {remedy}")
