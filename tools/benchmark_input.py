"""Measures the input pipeline on JPEG files: python -m tools.benchmark_input --output=FILE.

Images per second of training batches (random part of 224 x 224 pixels, mirror, normalised) beside
two other ways to the same batches, in turns within one run:

- pillow: what torchvision's transforms do with Pillow, in as many threads as there are cores
- keras: `keras.utils.image_dataset_from_directory`, which decodes and resizes only, without a crop

The files are made for it: like photographs, of 500 x 375 pixels, ImageNet's usual size.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import concurrent.futures
import json
import math
import os
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image

from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.folder import load_folder
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.data.streamed import IMAGENET_MEAN, IMAGENET_STD
from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, refuse_arguments
from mnemonics_tf.run.files import check_output, write_json
from mnemonics_tf.run.hardware import describe_hardware, describe_packages
from mnemonics_tf.settings import DataSettings

_IMAGES = flags.DEFINE_integer("images", 1000, "How many files a turn reads.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each way gets its turn; 0: none.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.")
_MEMORY = flags.DEFINE_list("memory", [], "Numbers of images to measure resident memory for.")
_MEMORY_OF = flags.DEFINE_string("memory_of", "", "Folder to measure; for the program's own use.")
_OUTPUT = flags.DEFINE_string("output", "", "File for the figures, as JSON.")

_SIZE = 224
_DISTINCT = 200  # images that are linked until there are enough


def make_images(root: pathlib.Path, count: int, size: tuple[int, int]) -> None:
    """Writes JPEG files in ten classes, with detail down to single pixels.

    Args:
        root: where to write folders of training and test images.
        count: training images, rounded down to a multiple of the distinct ones, at least these.
        size: width and height.
    """
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for c in range(10):
            (root / split / f"class{c}").mkdir(parents=True)
    for i in range(_DISTINCT + 20):
        coarse = generator.integers(0, 256, (size[1] // 12, size[0] // 12, 3), np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        grain = generator.normal(0, 6, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
        split = "train" if i < _DISTINCT else "val"
        path = root / split / f"class{i % 10}" / f"{i}.JPEG"
        Image.fromarray(pixels).save(path, quality=90)
        if split == "train":
            for copy in range(count // _DISTINCT - 1):
                os.link(path, path.with_name(f"{i}_{copy}.JPEG"))


def training_pipeline(root: pathlib.Path, size: int = _SIZE) -> tuple[Pipeline, ImageSet]:
    """Returns our pipeline and the training images of a folder."""
    source = load_folder(str(root), DataSettings(size, False, 0.2, 0))
    normalization = Normalization(source.channel_mean, source.channel_std)
    pipeline = Pipeline(normalization, AUGMENTATIONS[source.augmentation], 0)
    return pipeline, source.training_set(range(len(source.class_names)))


def count_images(batches) -> int:
    """Draws all batches; returns how many images they held."""
    return sum(int(batch["image"].shape[0]) for batch in batches)


def pillow_image(path: pathlib.Path) -> np.ndarray:
    """Returns one training image as torchvision's RandomResizedCrop, flip and Normalize do."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    width, height = image.size
    for _ in range(10):
        area = random.uniform(0.08, 1) * width * height
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            break
    else:
        w = h = min(width, height)
    left, top = random.randint(0, width - w), random.randint(0, height - h)
    image = image.crop((left, top, left + w, top + h))
    image = image.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image, np.float32) / 255
    return (pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)


def pillow_batches(root: pathlib.Path) -> int:
    """Makes all training batches with Pillow in threads; returns how many images."""
    paths = sorted((root / "train").glob("*/*"))
    random.shuffle(paths)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        images = pool.map(pillow_image, paths)
        batch = []
        for image in images:
            batch.append(image)
            if len(batch) == _BATCH_SIZE.value:
                np.stack(batch)
                batch = []
    return len(paths)


def ways(root: pathlib.Path) -> dict[str, Callable[[], int]]:
    """Returns what is compared, by name; graphs are built here and in the first turn."""
    pipeline, images = training_pipeline(root)
    training = pipeline.training_batches(images, _BATCH_SIZE.value, "t", 0)
    evaluation = pipeline.evaluation_batches(images, _BATCH_SIZE.value)
    loaded = keras.utils.image_dataset_from_directory(
        root / "train", image_size=(_SIZE, _SIZE), batch_size=_BATCH_SIZE.value, verbose=False
    ).prefetch(tf.data.AUTOTUNE)
    return {
        "ours": lambda: count_images(training),
        "ours, evaluation": lambda: count_images(evaluation),
        "pillow": lambda: pillow_batches(root),
        "keras": lambda: sum(int(batch.shape[0]) for batch, _ in loaded),
    }


def measure_speed(root: pathlib.Path) -> dict:
    """Returns images/s of every way and the ratios of ours to the others, by rounds."""
    speeds: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    compared = ways(root)
    for run in compared.values():
        run()
    for _ in range(_ROUNDS.value):
        for name, run in compared.items():
            started = time.perf_counter()
            cpu = time.process_time()
            count = run()
            speeds.setdefault(name, []).append(count / (time.perf_counter() - started))
            costs.setdefault(name, []).append(1000 * (time.process_time() - cpu) / count)
    ratios = {
        name: [a / b for a, b in zip(speeds["ours"], values, strict=True)]
        for name, values in speeds.items()
        if not name.startswith("ours")
    }
    return {
        "images_per_second": {n: round(statistics.median(v), 1) for n, v in speeds.items()},
        "processor_ms_per_image": {n: round(statistics.median(v), 2) for n, v in costs.items()},
        "ratio_of_ours_to": {
            name: {
                "median": round(statistics.median(v), 2),
                "lowest": round(min(v), 2),
                "highest": round(max(v), 2),
            }
            for name, v in ratios.items()
        },
    }


def peak_memory(root: pathlib.Path) -> float:
    """Draws an epoch of a folder's training batches; returns the peak resident MiB."""
    pipeline, images = training_pipeline(root, 96)
    count_images(pipeline.training_batches(images, _BATCH_SIZE.value, "t", 0))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(count: int) -> float:
    """Returns the peak resident MiB of a process of its own that reads `count` images."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        make_images(root, count, (96, 72))
        command = [sys.executable, "-m", "tools.benchmark_input", f"--memory_of={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@program()
def main(arguments: list[str]) -> int:
    """Measures and prints, or writes to a file."""
    refuse_arguments(arguments)
    if _MEMORY_OF.value:
        print(peak_memory(pathlib.Path(_MEMORY_OF.value)))
        return 0
    if _OUTPUT.value:
        check_output("--output", user_path(_OUTPUT.value))
    figures: dict[str, Any] = {"hardware": describe_hardware(), "packages": describe_packages()}
    figures["peak_memory_mib"] = {
        count: round(measure_memory(int(count))) for count in _MEMORY.value
    }
    if _ROUNDS.value:
        with tempfile.TemporaryDirectory() as folder:
            make_images(pathlib.Path(folder), _IMAGES.value, (500, 375))
            figures |= {"images": _IMAGES.value} | measure_speed(pathlib.Path(folder))
    print(json.dumps(figures, indent=1))
    if _OUTPUT.value:
        write_json(user_path(_OUTPUT.value), figures)
    return 0


if __name__ == "__main__":
    app.run(main)
