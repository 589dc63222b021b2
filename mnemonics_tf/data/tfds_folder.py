"""The folder in which TensorFlow Datasets keeps what it has prepared: finding and opening a set."""

import pathlib
import re
from typing import Any

from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.extras import extra
from mnemonics_tf.monitoring.progress import LOGGER

#: a set, one of its forms, and a version; no part is longer than the name of a folder may be
_NAME = re.compile(r"([\w.-]{1,255})(?:/([\w.-]{1,255}))?(?::\d+\.\d+\.\d+)?", re.ASCII)


def check_name(name: str) -> None:
    """Refuses what is no name of a set: it becomes a path, and a pattern of paths.

    Raises:
        UserError: if it is empty, holds what no name has, or leads out of the folder of the data.
    """
    found = _NAME.fullmatch(name)
    if found and not {".", ".."} & set(found.groups()):
        return
    raise UserError(
        f"--dataset=tfds:{printable(name[:100])} names no set: pass --dataset=tfds:NAME, as TFDS "
        "calls it, or tfds:NAME/CONFIG for one of its forms, with a version if need be "
        "(tfds:mnist:3.0.1)"
    )


def find_prepared(root: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the newest version of a set that TFDS has prepared below `root`, or the one named.

    Found by its files alone: a TFDS builder asks the network first, which takes minutes offline.
    """
    name, _, wanted = name.partition(":")
    folder, _, config = name.partition("/")
    versions = {}
    for path in (root / folder).glob(f"{config + '/' if config else ''}*/dataset_info.json"):
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name) and wanted in ("", path.parent.name):
            versions[tuple(map(int, path.parent.name.split(".")))] = path.parent
    return versions[max(versions)] if versions else None


def what_was_looked_for(root: pathlib.Path, name: str) -> str:
    """Returns why `find_prepared` found nothing, and what to do."""
    name, _, version = name.partition(":")
    folder = name.partition("/")[0]
    if (root / "dataset_info.json").exists() or root.resolve().name == folder:
        return (
            f"--data_dir={root} is the folder of {folder} itself, or one in it: pass the folder in "
            f"which {folder}/ lies"
        )
    found = sorted(path.parent.name for path in (root / name).glob("*/dataset_info.json"))
    if version and found:
        return f"of {name} in {str(root)!r} is prepared: {', '.join(found)}; not {version}"
    configs = sorted(
        {path.parent.parent.name for path in (root / name).glob("*/*/dataset_info.json")}
    )
    if configs:
        return (
            f"{name} in {str(root)!r} is prepared in {len(configs)} forms: "
            f"{', '.join(configs[:10])}: pass one of them, --dataset=tfds:{name}/{configs[0]}"
        )
    return (
        f"no data of {name} prepared by TFDS in {str(root)!r} ({name}/VERSION/"
        "dataset_info.json): prepare it there, or pass --download to let TFDS fetch it"
    )


def prepare(name: str, root: pathlib.Path, manual_dir: pathlib.Path | None = None) -> pathlib.Path:
    """Lets TFDS prepare a set below `root`, from archives in `manual_dir` or by download.

    Raises:
        UserError: if it does not succeed.
    """
    with extra("tfds", "data of TensorFlow Datasets"):
        import tensorflow_datasets as tfds

    LOGGER.info("preparing %s below %s", name, root)
    config = tfds.download.DownloadConfig(manual_dir=str(manual_dir) if manual_dir else None)
    try:
        tfds.builder(name, data_dir=str(root)).download_and_prepare(download_config=config)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(f"TFDS knows no data set {name!r}") from error
    except (OSError, AssertionError, tfds.download.DownloadError) as error:
        raise UserError(f"TFDS could not prepare {name} below {str(root)!r}: {error}") from error
    place = find_prepared(root, name)
    if place is None:
        raise UserError(f"TFDS prepared {name}, but not below {str(root)!r}")
    return place


def open_prepared(place: pathlib.Path) -> Any:
    """Returns the TFDS builder of a prepared set.

    Raises:
        UserError: if it can't be opened or is no set of labelled images.
    """
    with extra("tfds", "data of TensorFlow Datasets"):
        import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(place))
    except Exception as error:  # noqa: BLE001, it raises nearly anything at damaged files
        raise UserError(f"the TFDS data in {str(place)!r} can't be opened: {error}") from error
    features = builder.info.features
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    wrong = [n for n, k in kinds.items() if n not in features or not isinstance(features[n], k)]
    if wrong:
        raise UserError(
            f"the TFDS data in {str(place)!r} has the features {', '.join(features)}: expected an "
            "image named 'image' and one class a picture named 'label'"
        )
    return builder
