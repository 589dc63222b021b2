"""Whether settings, method and data fit the protocol that is asked for: before a run begins."""

import itertools
import pathlib
from collections.abc import Sequence

import numpy as np

from mnemonics_tf.bilevel import check_estimator
from mnemonics_tf.bilevel.batches import check_step
from mnemonics_tf.bilevel.objectives import on_originals
from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.data.source import DataSource, check_class_names
from mnemonics_tf.errors import UserError, counted
from mnemonics_tf.exemplars.budget import make_budget
from mnemonics_tf.exemplars.codecs import WITH_QUALITY, loses_nothing, make_codec
from mnemonics_tf.exemplars.codecs.base import LimitedCodec, RelaxedCodec
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.methods.base import Method
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.phases.adjust_exemplars import check_adjustment
from mnemonics_tf.phases.backbone import exemplars_learn
from mnemonics_tf.phases.coded_share import check_coded_share, coded_share
from mnemonics_tf.phases.learn_new import learns_beside_old
from mnemonics_tf.phases.quotas import ExpectedQuotas, expected_quotas, larger_budget, total_of
from mnemonics_tf.phases.train_model import check_held_out
from mnemonics_tf.registry import find, imported
from mnemonics_tf.run.checkpoints import Snapshot
from mnemonics_tf.settings import ExemplarSettings, Settings, all_fields

#: exemplars of a class; what so many are not enough for, no number is
_MANY = 1000

_DEFAULT_QUALITY = ExemplarSettings().jpeg_quality


def warn_of_small_classes(
    settings: Settings,
    protocol: ClassIncrementalProtocol,
    source: DataSource,
    phases: Sequence[Phase],
) -> None:
    """Warns where a class has fewer images than exemplars are asked for: all of them are kept.

    Args:
        settings: of the run.
        protocol: what is learned when.
        source: tells how many images there are.
        phases: whose new classes are looked at.
    """
    quotas = expected_quotas(settings, protocol, source, phases)
    counts = source.training_counts_of(protocol.order)
    in_bytes = quotas.budget.counts_bytes
    asked_for = "its bytes may hold, about" if in_bytes else "the exemplars asked for,"
    for phase in phases:
        quota = quotas.of(phase)
        small = [label for label in phase.new_classes if counts[label] < quota]
        if small:
            names = source.names_of(protocol.original_ids(small[:5]))
            LOGGER.warning(
                "fewer training images than %s %d, in %s of phase %d (first: %s; smallest: %s): "
                "all of them are kept",
                asked_for,
                quota,
                counted(len(small), "class"),
                phase.index,
                ", ".join(names),
                counted(int(min(counts[small])), "image"),
            )


def check_enough(
    settings: Settings, method: Method, protocol: ClassIncrementalProtocol, source: DataSource
) -> None:
    """Refuses a budget that leaves a method or the adjustment too few exemplars in some phase.

    How many a budget in bytes holds is an estimate; `check_exemplars` asks again once they are
    encoded.

    Args:
        settings: of the run.
        method: how the model learns.
        protocol: what is learned when.
        source: tells how many images there are.

    Raises:
        UserError: names the flags to pass instead.
    """
    counts = source.training_counts_of(protocol.order)
    # The exemplars of the last phase's classes serve no later one.
    quotas = expected_quotas(settings, protocol, source, protocol.phases[:-1] or protocol.phases)
    enough = _exemplars_needed(settings, method, protocol)
    for before, phase in itertools.pairwise(protocol.phases):
        quota, fewest_images = quotas.of(before), int(min(counts[phase.seen_classes]))
        ways = _ways_to_more(protocol, quotas, quota, fewest_images, enough)
        check_held_out(settings.training, method, phase, min(quota, fewest_images), ways)
    for before in protocol.phases[:-1]:
        quota, fewest_images = quotas.of(before), int(min(counts[before.seen_classes]))
        ways = _ways_to_more(protocol, quotas, quota, fewest_images, enough)
        check_adjustment(settings.adjustment, min(quota, fewest_images), ways)


def check_further_phase(
    settings: Settings, method: Method, protocol: ClassIncrementalProtocol, source: DataSource
) -> None:
    """Refuses the same of a phase that follows a finished run, whose exemplars are there to count.

    Args:
        settings: of the phase.
        method: how the model learns.
        protocol: what is learned when; the last phase is the one that follows.
        source: tells how many images there are; of old classes these are the exemplars.

    Raises:
        UserError: names the flags to pass instead. No budget brings back what was not kept.
    """
    check_settings(settings, method, protocol)
    _check_names(settings)
    _check_codes(settings, protocol, source, protocol.phases[-1:])
    counts = source.training_counts_of(protocol.order)
    before, phase = protocol.phases[-2:]
    fewest, kept = (int(min(counts[one.seen_classes])) for one in (phase, before))
    ways = ["begin another run, which keeps more exemplars of each class"] * (kept == fewest)
    check_held_out(settings.training, method, phase, fewest, ways)
    check_adjustment(settings.adjustment, kept)


def check_settings(settings: Settings, method: Method, protocol: ClassIncrementalProtocol) -> None:
    """Refuses settings that do not go together, whatever the data.

    Args:
        settings: of the run.
        method: how the model learns.
        protocol: what is learned when.

    Raises:
        UserError: names the flags to pass instead.
    """
    name = settings.training.method
    in_vain = [
        flag
        for flag, passed in (
            ("--exemplars=mnemonics", settings.exemplar.exemplars == "mnemonics"),
            ("--adjust_old_exemplars", settings.adjustment.adjust_old_exemplars),
            ("--replay_per_class", settings.training.replay_per_class > 0),
            ("--coded_share", settings.exemplar.coded_share > 0),
        )
        if passed and method.keeps_past_data
    ]
    if in_vain:
        raise UserError(
            f"--method={name} with {' and '.join(in_vain)}: this method trains on all data so far "
            "and never on exemplars, so that this is in vain: leave it out, or pass another method"
        )
    coded_share(settings.exemplar)  # refuses one that is none
    _check_validation(settings)
    _check_codec(settings)
    check_budget(settings, method, protocol)


def _check_validation(settings: Settings) -> None:
    """Refuses a rehearsal that would have nothing to score by.

    Raises:
        UserError: if no images are held out for it.
    """
    wanted, learned = settings.validation, settings.exemplar.exemplars == "mnemonics"
    if learned and wanted.validation == "rehearsal" and not wanted.validation_share:
        raise UserError(
            "--validation=rehearsal scores exemplars on images held out for it, and "
            "--validation_share=0 holds out none: pass a share, such as 0.1, or --validation=probe"
        )


def _check_codec(settings: Settings) -> None:
    """Refuses learning that a codec leaves nothing to do for, or that it would spoil unseen.

    Raises:
        UserError: names the flags to pass instead.
    """
    stored, objective = settings.exemplar, settings.outer.objective
    codec, adjusts = f"--codec={stored.codec}", settings.adjustment.adjust_old_exemplars
    relaxed = isinstance(make_codec(stored.codec, stored.jpeg_quality), RelaxedCodec)
    if adjusts and not relaxed and not loses_nothing(stored.codec):
        raise UserError(
            f"--adjust_old_exemplars with {codec}, which loses something and has no derivative "
            "(`relaxed`): it would take away what each phase adjusts, unseen: leave one of the two "
            "out"
        )
    if not on_originals(objective):
        return
    if adjusts:  # with chosen exemplars too, for Eq. 10 has the same objective
        raise UserError(
            f"--objective={objective} with --adjust_old_exemplars: the real images that exemplars "
            "keep to are gone once their phase ends: leave one of the two out"
        )
    if stored.exemplars == "mnemonics" and settings.outer.train_beside_old:
        raise UserError(
            f"--objective={objective} with --train_beside_old: each exemplar keeps to its own real "
            "image, whatever stands beside it, so that this is in vain: leave it out"
        )
    if stored.exemplars == "mnemonics" and not relaxed:
        why = "loses nothing" if loses_nothing(stored.codec) else "has no derivative (`relaxed`)"
        raise UserError(
            f"--objective={objective} makes up for what a codec loses, and {codec} {why}: pass "
            "another objective, or begin a run with --codec=jpeg"
        )


def check_new_run(
    settings: Settings, method: Method, protocol: ClassIncrementalProtocol, source: DataSource
) -> None:
    """Refuses what a run should not begin with; one that has begun goes on as it is.

    Args:
        settings: of the run.
        method: how the model learns.
        protocol: what is learned when.
        source: names the classes, and tells how many images there are.

    Raises:
        UserError: names the flags to pass instead, the class whose name is not fit, or classes
            whose images another run has let go.
    """
    source.refuse_released(protocol.order)
    place = f"--dataset={settings.protocol.dataset}"
    check_class_names(source.class_names, place, "mend the source's `class_names`")
    stored = settings.exemplar
    if stored.jpeg_quality != _DEFAULT_QUALITY and stored.codec not in WITH_QUALITY:
        raise UserError(
            f"--jpeg_quality={stored.jpeg_quality} with --codec={stored.codec}, which has no "
            "quality: pass --codec=jpeg with it, or leave it out"
        )
    _check_names(settings)
    # An image of its own may be too large for a codec, or have other channels than it takes.
    make_codec(stored.codec, stored.jpeg_quality).encode(
        np.zeros((1, *source.image_shape), np.uint8)
    )
    _check_codes(settings, protocol, source, protocol.phases)
    check_coded_share(settings, method, protocol, source, protocol.phases)
    check_outer_step(settings, protocol.phases)
    check_enough(settings, method, protocol, source)
    warn_of_small_classes(settings, protocol, source, protocol.phases)


def _check_codes(
    settings: Settings,
    protocol: ClassIncrementalProtocol,
    source: DataSource,
    phases: Sequence[Phase],
) -> None:
    """Refuses more exemplars of a class than its code can hold; of bytes no more are chosen.

    Args:
        settings: of the run.
        protocol: what is learned when.
        source: tells how many images there are.
        phases: whose new classes are looked at.

    Raises:
        UserError: names the flags to pass instead.
    """
    stored, budget = settings.exemplar, make_budget(settings.exemplar)
    coder = make_codec(stored.codec, stored.jpeg_quality)
    if budget.counts_bytes or not isinstance(coder, LimitedCodec):
        return
    most = coder.most_images(source.image_shape)
    counts = source.training_counts_of(protocol.order)
    for phase in phases:
        kept = min(budget.quota(phase.num_seen), int(max(counts[phase.new_classes])))
        if kept > most:
            height, width, _ = source.image_shape
            raise UserError(
                f"{budget.flag} keeps {kept} images of a class in phase {phase.index}, and "
                f"--codec={stored.codec} stores {most} of {height} x {width} pixels at most: pass "
                f"--codec=pixels, or {budget.of_classes(most, phase.num_seen)}"
            )


def _check_names(settings: Settings) -> None:
    """Refuses names that stand for nothing, also those that are first looked up in a late stage.

    So it does an estimator that could not be built then. The source is open by now: what its name
    stands for is nobody's question any more.
    """
    for _, field, value in all_fields(settings):
        facts = field.metadata["facts"]
        known = value in facts.choices or facts.is_elsewhere(value) or field.name == "dataset"
        if facts.registry and not known:
            find(imported(facts.registry, field.name), value, field.name)
    if exemplars_learn(settings):
        check_estimator(settings.inner.meta_gradient)


def check_outer_step(settings: Settings, phases: Sequence[Phase]) -> None:
    """Refuses outer steps that have no room for all classes which a phase's learning has.

    Args:
        settings: of the run.
        phases: that are to be learned.

    Raises:
        UserError: names what is enough.
    """
    outer, classes = settings.outer, [0]
    if settings.exemplar.exemplars == "mnemonics" and not on_originals(outer.objective):
        classes += [p.num_seen if learns_beside_old(outer, p) else p.num_new for p in phases]
    if settings.adjustment.adjust_old_exemplars:
        classes += [phase.num_old for phase in phases]
    check_step(outer, max(classes))


def check_exemplars(
    settings: Settings,
    method: Method,
    protocol: ClassIncrementalProtocol,
    phase: Phase,
    memory: ExemplarMemory,
) -> None:
    """Refuses to go on with fewer exemplars of a class than the next phase needs.

    How many a budget in bytes holds is an estimate before the run, and known once they are encoded.

    Args:
        settings: of the run.
        method: how the model learns.
        protocol: what is learned when.
        phase: that comes next.
        memory: what the budget leaves.

    Raises:
        UserError: names the flags to pass instead, in another run.
    """
    budget = make_budget(settings.exemplar)
    if not budget.counts_bytes:
        return
    fewest, ways = int(np.bincount(memory.labels).min()), []
    if enough := _exemplars_needed(settings, method, protocol):
        ways = [f"pass {larger_budget(budget, memory, enough, protocol)}"]
    check_held_out(settings.training, method, phase, fewest, ways, begun=True)
    check_adjustment(settings.adjustment, fewest, ways, begun=True)


def check_budget(settings: Settings, method: Method, protocol: ClassIncrementalProtocol) -> None:
    """Refuses a budget that the last phase would overdraw, and says what is enough for all phases.

    Args:
        settings: of the run.
        method: how the model learns.
        protocol: what is learned when.

    Raises:
        UserError: if not even one exemplar a class fits in the end.
    """
    total, num_classes = make_budget(settings.exemplar).total, protocol.phases[-1].num_seen
    if total and total < num_classes:
        enough = total_of(protocol, _exemplars_needed(settings, method, protocol) or 1)
        raise UserError(
            f"--exemplars_total={total} leaves no exemplar for each of {num_classes} classes: "
            f"pass at least {enough}"
        )


def _exemplars_needed(
    settings: Settings, method: Method, protocol: ClassIncrementalProtocol
) -> int | None:
    """Returns how many exemplars of a class are enough for all that is asked for, if any are."""
    adjustment = settings.adjustment
    splits = adjustment.adjust_old_exemplars and not adjustment.skip_adjustment_if_too_few
    for count in range(adjustment.adjust_subsets if splits else 1, _MANY):
        if all(method.held_out_per_class(phase, count) < count for phase in protocol.phases[1:]):
            return count
    return None


def _ways_to_more(
    protocol: ClassIncrementalProtocol,
    quotas: ExpectedQuotas,
    quota: int,
    fewest_images: int,
    enough: int | None,
) -> list[str]:
    """Returns the advice to keep more exemplars, where that helps."""
    if enough is None or fewest_images <= quota or fewest_images < enough:
        return []
    return [f"keep more exemplars ({quotas.to_have(enough, protocol)})"]


def check_snapshot(snapshot: Snapshot, stages: Sequence[str], directory: pathlib.Path) -> None:
    """Refuses a checkpoint of a stage that this version does not have.

    Args:
        snapshot: of a phase.
        stages: that there are.
        directory: of the phase.

    Raises:
        UserError: names the way out.
    """
    if snapshot.stage not in stages:
        raise UserError(
            f"the checkpoint in {directory} is of a stage {snapshot.stage!r}, which this version "
            f"does not have: go on with the version that wrote it, or remove {directory} to begin "
            "the phase again"
        )
