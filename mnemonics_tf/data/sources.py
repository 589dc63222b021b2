"""The registry of the data sources we know."""

from collections.abc import Callable

from mnemonics_tf.data.source import DataSource
from mnemonics_tf.errors import UserError, counted, printable
from mnemonics_tf.monitoring.progress import LOGGER, waiting_for
from mnemonics_tf.registry import find
from mnemonics_tf.run.files import check_path
from mnemonics_tf.settings import MOST_CHANNELS, TFDS_PREFIX, DataSettings, Settings

# The factories import late: naming a source must not cost the imports of all the others.


def _cifar100(data_dir: str, download: bool, options: DataSettings) -> DataSource:
    from mnemonics_tf.data import cifar

    _refuse_size("cifar100", options)
    return cifar.load_cifar100(data_dir, download)


def _digits(data_dir: str, download: bool, options: DataSettings) -> DataSource:
    from mnemonics_tf.data import digits

    _refuse_size("digits", options)
    return digits.load_digits()


def _folder(data_dir: str, download: bool, options: DataSettings) -> DataSource:
    from mnemonics_tf.data import folder

    return folder.load_folder(data_dir, options)


def _imagenet(name: str) -> Callable[[str, bool, DataSettings], DataSource]:
    def load(data_dir: str, download: bool, options: DataSettings) -> DataSource:
        from mnemonics_tf.data import imagenet

        return imagenet.load_imagenet(
            name, data_dir, options.image_size or 224, options.skip_broken
        )

    return load


def _npz(data_dir: str, download: bool, options: DataSettings) -> DataSource:
    from mnemonics_tf.data import npz

    _refuse_size("npz", options)
    return npz.load_npz(data_dir)


def _refuse_size(name: str, options: DataSettings) -> None:
    if options.image_size:
        raise UserError(
            f"--image_size={options.image_size}: the images of {name} have one size and are not "
            "resized: leave the flag out"
        )


SOURCES: dict[str, Callable[[str, bool, DataSettings], DataSource]] = {
    "cifar100": _cifar100,
    "digits": _digits,
    "folder": _folder,
    "imagenet": _imagenet("imagenet"),
    "imagenet_subset": _imagenet("imagenet_subset"),
    "npz": _npz,
}


def create(
    name: str, data_dir: str, download: bool, options: DataSettings | None = None
) -> DataSource:
    """Opens the data source registered under `name`.

    Args:
        name: a key of `SOURCES`, `tfds:NAME` for a set that TensorFlow Datasets knows, or
            `package.module:Name` for a function of one's own like those in `SOURCES`.
        data_dir: the folder that holds the data (or, where the source says so, the data itself).
        download: whether the source may fetch missing data from the network.
        options: how images of any size are read.

    Raises:
        UserError: if there is no such source, or its data is missing or damaged.
    """
    options = options or DataSettings()
    check_path("--data_dir", data_dir)  # it may come from a run's files
    waiting_for(f"reading the data of {printable(name)}")
    if name.startswith(TFDS_PREFIX):
        from mnemonics_tf.data import prepared

        source = prepared.load_prepared(
            name.removeprefix(TFDS_PREFIX),
            data_dir,
            download,
            options.image_size,
            options.skip_broken,
        )
    else:
        source = find(SOURCES, name, "dataset")(data_dir, download, options)
    LOGGER.info("%s", described(source))
    return source


def described(source: DataSource) -> str:
    """Returns what was read, on one line: how many images of how many classes, and from where."""
    height, width, _ = source.image_shape
    origin = f", from {source.origin}" if source.origin else ""
    return (
        f"{source.name}: {source.training_counts().sum()} training and "
        f"{source.test_counts().sum()} test images of {counted(len(source.class_names), 'class')}, "
        f"{height} x {width} pixels{origin}"
    )


def open_source(settings: Settings) -> DataSource:
    """Opens the data source of a run.

    Raises:
        UserError: if there is no such source, its data is missing or damaged, it has one class, or
            images of more than four channels.
    """
    run = settings.run
    source = create(settings.protocol.dataset, run.data_dir, run.download, settings.data)
    if len(source.class_names) < 2:
        raise UserError(
            f"--data_dir={run.data_dir} holds the class {printable(source.class_names[0])} alone: "
            "expected two at least"
        )
    if (channels := source.image_shape[-1]) > MOST_CHANNELS:
        raise UserError(
            f"--dataset={settings.protocol.dataset} has images of {channels} channels: pictures "
            f"and exports hold at most {MOST_CHANNELS}; keep some of them, or mix them"
        )
    return source
