"""The t-SNE of exemplars over their class data (the paper's Figures 1 and 5)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mnemonics_tf.data.source import DataSource, ids_in_words
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.exemplars.selection import NEED_FEATURES, SELECTIONS
from mnemonics_tf.extras import extra
from mnemonics_tf.norms import unit_length
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.reporting.runs import Run
from mnemonics_tf.run.resume import check_memory

#: classes shown, as in the paper: few enough to be told apart
_CLASSES = (3, 5)
#: images of a class that are embedded; selections choose from all of them
_IMAGES_PER_CLASS = 250


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Class data and exemplars of one phase in two dimensions, each in [0, 1].

    Attributes:
        phase: index.
        num_seen: classes known at its end.
        class_names: of the classes shown.
        data: `[n, 2]` by class shown.
        exemplars: way of choosing -> `[m, 2]` by class shown.
    """

    phase: int
    num_seen: int
    class_names: tuple[str, ...]
    data: tuple[np.ndarray, ...]
    exemplars: dict[str, tuple[np.ndarray, ...]]


def embed(
    run: Run, source: DataSource, features_of: Callable[[int, np.ndarray], np.ndarray]
) -> list[Embedding]:
    """Returns the embeddings of a run's first and last phase.

    Every phase has one feature space, that of its model, so that ways of choosing exemplars can be
    compared: beside the run's own exemplars stand those that the selections would choose in this
    space, as many of them. The paper embeds each method's own model.

    Args:
        run: with a directory that holds exemplars.
        source: the run's data.
        features_of: maps a phase and images, uint8 `[n, h, w, c]`, to features `[n, d]` of the
            phase's model.

    Raises:
        UserError: if a model or a memory is missing, damaged, or not this data's.
    """
    phases = [run.phases[i] for i in sorted({0, len(run.phases) - 1})]
    return [
        _embed_phase(
            run,
            source,
            functools.partial(features_of, record["phase"]),
            record["phase"],
            record["num_seen"],
            _CLASSES[record["phase"] > 0],
        )
        for record in phases
    ]


def _embed_phase(
    run: Run,
    source: DataSource,
    features_of: Callable[[np.ndarray], np.ndarray],
    phase: int,
    num_seen: int,
    num_classes: int,
) -> Embedding:
    assert run.directory is not None, "results alone have no exemplars"
    path = run.directory.exemplars(phase)
    memory = ExemplarMemory.load(path)
    check_memory(path, memory, num_seen, source.image_shape)
    labels = np.linspace(0, num_seen - 1, min(num_classes, num_seen)).astype(int)
    order = _class_order(run, source)
    try:
        images = [source.training_set([order[label]]).load_all() for label in labels]
    except LookupError as error:  # of a phase that was learned later, or of the run's own data
        raise UserError(f"{error}: put them back where the run had them") from error
    features = [features_of(batch) for batch in images]
    kept = [memory.images_at(np.flatnonzero(memory.labels == label)) for label in labels]
    chosen = {
        name: [
            class_features[_select(run, name, class_features, int(label), len(own))]
            for class_features, label, own in zip(features, labels, kept, strict=True)
        ]
        for name in SELECTIONS
    }
    # A run's own exemplars stand last; those of a selection take its place. Further phases may make
    # them otherwise.
    own_kinds = " and ".join(run.kinds_of_exemplars(phase + 1))
    chosen[own_kinds] = [features_of(own) for own in kept]
    data = [_sample(part, int(label)) for part, label in zip(features, labels, strict=True)]
    points = _tsne([*data, *(part for parts in chosen.values() for part in parts)])
    groups = [points[i : i + len(labels)] for i in range(0, len(points), len(labels))]
    return Embedding(
        phase,
        num_seen,
        tuple(source.names_of([order[label] for label in labels])),
        tuple(groups[0]),
        {name: tuple(group) for name, group in zip(chosen, groups[1:], strict=True)},
    )


def _class_order(run: Run, source: DataSource) -> list[int]:
    """Returns the original ids of the classes, by label."""
    order = run.contents.get("class_order")
    if order is None or not set(order) <= set(source.original_ids):
        raise UserError(
            f"{run.path} has {'no' if order is None else 'another'} class_order than "
            f"the data, whose class ids are {ids_in_words(source.original_ids)}: start the run's "
            "command again, which writes the file anew"
        )
    return order


def _select(run: Run, name: str, features: np.ndarray, label: int, count: int) -> np.ndarray:
    """Returns what a run with this selection chooses of a class, given these features."""
    seed, exemplar_seed = run.seeds[:2]
    if exemplar_seed is None or exemplar_seed < 0:
        exemplar_seed = seed
    generator = numpy_generator(exemplar_seed, "exemplars", label)
    seen = features if name in NEED_FEATURES else np.empty((len(features), 0))
    return SELECTIONS[name](seen, count, generator)


def _sample(features: np.ndarray, label: int) -> np.ndarray:
    rows = numpy_generator(0, "t-SNE", label).permutation(len(features))[:_IMAGES_PER_CLASS]
    return features[np.sort(rows)]


def check_installed() -> None:
    """Raises UserError if what the t-SNE needs is not installed."""
    _packages()


def _packages() -> tuple[Any, Any]:
    with extra("report", "the t-SNE of a report"):
        import threadpoolctl
        from sklearn.manifold import TSNE
    return threadpoolctl, TSNE


def _tsne(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the two-dimensional embedding of L2-normalised features, part by part."""
    features = unit_length(np.concatenate(parts).astype(np.float64))
    perplexity = min(30.0, (len(features) - 1) / 4)
    threadpoolctl, tsne = _packages()
    # One thread: the sum over threads would differ from run to run.
    with threadpoolctl.threadpool_limits(1):
        points = tsne(perplexity=perplexity, random_state=0).fit_transform(features)
    points = points - points.min(axis=0)
    points = points / max(float(points.max()), 1e-12)
    points += (1 - points.max(axis=0)) / 2
    ends = np.cumsum([len(part) for part in parts])
    return np.split(points, ends[:-1])
