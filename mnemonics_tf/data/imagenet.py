"""ImageNet (ILSVRC 2012) and the 100 classes of it that LUCIR and the paper call ImageNet-Subset.

Source: O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
"""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mnemonics_tf.data.checking import check_files
from mnemonics_tf.data.layout import (
    LeftOut,
    class_folders,
    list_images,
    note_loose_files,
    split_folders,
)
from mnemonics_tf.data.prepared import stream_prepared
from mnemonics_tf.data.storage import FileStorage
from mnemonics_tf.data.streamed import Files, StreamedSource, view_of
from mnemonics_tf.data.tfds_folder import find_prepared, open_prepared, prepare
from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.paths import user_path

SUBSET_SEED = 1993
SUBSET_CLASSES = 100

#: the official archives, from which TFDS prepares the data
ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


@functools.cache
def synsets() -> tuple[str, ...]:
    """Returns the 1,000 synset ids of ILSVRC 2012, sorted."""
    path = pathlib.Path(__file__).with_name("imagenet_synsets.txt")
    return tuple(path.read_text("utf-8").split())


def subset_synsets() -> tuple[str, ...]:
    """Returns the 100 synset ids of ImageNet-Subset, sorted: a class's id is its place here.

    They are drawn by NumPy's `RandomState(1993).choice` without replacement from the 1,000 sorted
    ids, as LUCIR's release draws them. It copies their folders into a data set of its own, where
    classes are sorted again before their order is shuffled; hence the sorting.
    """
    drawn = np.random.RandomState(SUBSET_SEED).choice(
        np.arange(len(synsets())), SUBSET_CLASSES, replace=False
    )
    return tuple(sorted(synsets()[i] for i in drawn))


def load_imagenet(
    name: str, data_dir: str, image_size: int, skip_broken: bool = False
) -> StreamedSource:
    """Finds the images of ImageNet or ImageNet-Subset, and decodes each once.

    Looked for, in this order: data that TFDS has prepared below `data_dir`; folders
    `train/SYNSET/*.JPEG` and `val/SYNSET/*.JPEG`; the two official archives, which TFDS prepares
    below `data_dir` (hours, and as much disk again). Folders that are missing or hold no image
    are named, and folders of other synsets ignored.

    Args:
        name: `imagenet` or `imagenet_subset`.
        data_dir: where to look.
        image_size: height and width that images are brought to.
        skip_broken: leave broken images out, instead of stopping.

    Raises:
        UserError: if there is no data, classes are missing, or an image is broken.
    """
    wanted = subset_synsets() if name == "imagenet_subset" else synsets()
    root = user_path(data_dir)
    prepared = find_prepared(root, "imagenet2012")
    training_folder, test_folder = split_folders(root)
    unpacked = training_folder and test_folder
    if not prepared and not unpacked and all((root / file).is_file() for file in ARCHIVES):
        LOGGER.info("TFDS prepares ImageNet from the archives in %s: this takes hours", root)
        prepared = prepare("imagenet2012", root, manual_dir=root)
    if prepared is not None:
        classes, view = dict(enumerate(wanted)), view_of(image_size)
        builder = open_prepared(prepared)
        return stream_prepared(
            name, builder, classes, view, ("validation",), skip_broken, need_all=True
        )
    if not training_folder or not test_folder:
        part = training_folder or test_folder
        raise UserError(
            f"no ImageNet in {str(root)!r}; looked for data prepared by TFDS "
            "(imagenet2012/VERSION/dataset_info.json), the folders train/SYNSET and val/SYNSET"
            f"{f' (there is {part.name}/ alone)' if part else ''}, "
            f"and the archives {' and '.join(ARCHIVES)}: register at https://image-net.org to get "
            "them, and put them there or pass another --data_dir"
        )
    parts = (training_folder, test_folder)
    left_out = LeftOut()
    note_loose_files(root, parts, left_out)
    listed = [_list_classes(root, part, wanted, left_out) for part in parts]
    left_out.warn(root)
    paths = [path for part in listed for class_paths in part for path in class_paths]
    # By TensorFlow alone, as everyone decodes ImageNet: whatever a camera noted is ignored.
    good = check_files(root, paths, skip_broken, by_pillow=False)
    storage = FileStorage(root)
    training, test = (
        _files(part.name, class_paths, good, wanted)
        for part, class_paths in zip(parts, listed, strict=True)
    )
    source = StreamedSource(name, wanted, (storage, training), (storage, test), view_of(image_size))
    source.origin = f"{parts[0].name}/ and {parts[1].name}/ of {root}"
    return source


def _list_classes(
    root: pathlib.Path, part: pathlib.Path, wanted: Sequence[str], left_out: LeftOut
) -> list[list[str]]:
    folders = class_folders(part)
    missing = sorted(set(wanted) - set(folders))
    for name in sorted(set(folders) - set(synsets())):
        left_out.add("folder(s) of no class of ImageNet", f"{part.name}/{name}")
    listed = []
    for synset in wanted:
        listed.append(list_images(root, f"{part.name}/{synset}", left_out))
        if not listed[-1] and synset not in missing:
            missing.append(synset)
    if missing:
        raise UserError(
            f"{part} lacks images of {len(missing)} of {len(wanted)} classes (first: "
            f"{', '.join(missing[:5])}): add them, or use --dataset=folder for a selection of "
            "your own"
        )
    return listed


def _files(
    part: str,
    listed: Sequence[Sequence[str]],
    good: Mapping[str, bool],
    wanted: Sequence[str],
) -> dict[int, Files]:
    files = {}
    for c, paths in enumerate(listed):
        kept = [os.fsencode(path) for path in paths if path in good]
        if not kept:
            raise UserError(
                f"all {len(paths)} images of {wanted[c]} in {part} are broken: fetch them again"
            )
        files[c] = Files.plain(np.array(kept, np.bytes_))
    return files
