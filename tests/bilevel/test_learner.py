import math

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.bilevel.batches import largest_parts, split_balanced
from mnemonics_tf.bilevel.learner import (
    Companions,
    ExemplarLearner,
    Exemplars,
    OuterData,
)
from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.settings import OuterSettings, ValidationSettings

NORMALIZATION = Normalization((0.5, 0.4), (0.25, 0.2))
SHAPE = (4, 4, 2)
TARGET = 0.3
OUTER_LABELS = np.repeat(np.arange(3), 20)


class Bowl:
    """In place of a temporary model: the meta loss is the squared distance of pixels to a target.

    Its gradient rests on nothing but the images it is given, so the loop can be followed by hand.
    Every call is kept.
    """

    def __init__(self, lead=None):
        self.calls = []
        self._lead = lead or {}

    def value_and_gradient(self, exemplars, labels, learning, outer, *key):
        self.calls.append({"images": exemplars.numpy(), "labels": labels, "key": key, **outer})
        loss = tf.reduce_mean(tf.square(exemplars - TARGET))
        gradient = 2 * (exemplars - TARGET) / len(labels)
        return self._lead.get(key[-1], lambda *given: given)(loss, gradient)


def make_learner(model, steps=6, seed=0, **changes) -> ExemplarLearner:
    outer = {
        "exemplars_per_step": 0,
        "outer_batch_size": 100,
        "outer_learning_rate": 0.05,
        "outer_halvings": 0,
        "outer_steps": steps,
        "max_shift": 255.0,
    }
    validation = {"validation": "probe", "validation_every": 2, "patience": 0}
    for name, value in changes.items():
        (validation if name in validation else outer)[name] = value
    valid_range = (NORMALIZATION.black, NORMALIZATION.white)
    return ExemplarLearner(
        model, OuterSettings(**outer), ValidationSettings(**validation), valid_range, seed
    )


def make_exemplars(per_class=4, classes=3, fixed_classes=()) -> Exemplars:
    """Each image's first pixel tells its row: 0, 0.01, 0.02, ..."""
    labels = np.repeat(np.arange(classes), per_class)
    images = np.random.default_rng(0).uniform(-1, 1, (len(labels), *SHAPE)).astype(np.float32)
    images[:, 0, 0, 0] = np.arange(len(labels)) / 100
    return Exemplars(images, labels, ~np.isin(labels, fixed_classes))


def make_outer(labels=OUTER_LABELS, seed=0) -> OuterData:
    return OuterData(labels, lambda rows: {"row": tf.constant(rows)}, 6, seed)


def silent(step, metrics, seconds):
    del step, metrics, seconds


def train(learner, exemplars, validate=None, report=silent, outer=None):
    return learner.train_new(
        exemplars, outer or make_outer(), Companions(report, validate), "exemplars", 2
    )


# --- learning new exemplars ----------------------------------------------------------------------


def test_learning_lowers_the_meta_loss_and_reports_every_step():
    exemplars, reports = make_exemplars(), []
    course = train(
        make_learner(Bowl()),
        exemplars,
        report=lambda step, metrics, seconds: reports.append((step, metrics)),
    )
    assert len(course.meta_losses) == 6
    assert np.all(np.diff(course.meta_losses) < 0)
    assert course.stopped is None
    assert [step for step, _ in reports] == [1, 2, 3, 4, 5, 6]
    assert [metrics["meta_loss"] for _, metrics in reports] == course.meta_losses


def test_every_outer_step_is_taken_once():
    model = Bowl()
    train(make_learner(model), make_exemplars())
    assert [call["key"] for call in model.calls] == [("exemplars", 2, step) for step in range(6)]


def test_what_is_about_to_be_done_is_told_before_the_first_step():
    told = []
    companions = Companions(
        lambda step, metrics, seconds: told.append((step, seconds > 0)),
        begin=lambda learning, in_a_step: told.append((learning, in_a_step)),
    )
    learner = make_learner(Bowl(), steps=2, exemplars_per_step=6)
    exemplars = make_exemplars(fixed_classes=[1])
    learner.train_new(exemplars, make_outer(), companions, "exemplars", 2)
    assert told == [(8, 6), (1, True), (2, True)]


def test_rows_that_do_not_learn_stand_beside_the_others_bit_for_bit():
    model, exemplars = Bowl(), make_exemplars(fixed_classes=[1])
    start = exemplars.images.copy()
    train(make_learner(model), exemplars)
    fixed = exemplars.labels == 1
    np.testing.assert_array_equal(exemplars.images[fixed], start[fixed])
    assert np.all(np.any(exemplars.images[~fixed] != start[~fixed], axis=(1, 2, 3)))
    for call in model.calls:
        np.testing.assert_array_equal(call["images"][call["labels"] == 1], start[fixed])


def test_pixels_stay_valid():
    exemplars = make_exemplars()

    def push(loss, gradient):
        return loss, tf.ones_like(gradient) * tf.constant([1.0, -1.0])

    train(make_learner(Bowl(dict.fromkeys(range(200), push)), steps=200), exemplars)
    np.testing.assert_array_equal(exemplars.images[..., 0], NORMALIZATION.black[0])
    np.testing.assert_array_equal(exemplars.images[..., 1], NORMALIZATION.white[1])


def test_a_step_may_take_some_of_the_exemplars_class_balanced():
    model, exemplars = Bowl(), make_exemplars(per_class=4)
    train(make_learner(model, exemplars_per_step=6, steps=20), exemplars)
    for call in model.calls:
        np.testing.assert_array_equal(call["labels"], [0, 0, 1, 1, 2, 2])
    assert len({tuple(call["images"][:, 0, 0, 0]) for call in model.calls}) > 10


def test_validation_keeps_the_best_and_the_later_of_equals():
    exemplars, scores, seen = make_exemplars(), iter([0.5, 0.9, 0.9, 0.2]), []

    def validate(images):
        seen.append(images.copy())
        return next(scores)

    course = train(make_learner(Bowl()), exemplars, validate)
    assert course.validations == [(0, 0.5), (2, 0.9), (4, 0.9), (6, 0.2)]
    np.testing.assert_array_equal(exemplars.images, seen[2])
    assert np.any(seen[1] != seen[2])


def test_the_start_is_kept_where_learning_only_harms():
    exemplars, scores = make_exemplars(), iter([0.5, 0.4, 0.3, 0.2])
    start = exemplars.images.copy()
    train(make_learner(Bowl()), exemplars, lambda images: next(scores))
    np.testing.assert_array_equal(exemplars.images, start)


@pytest.mark.parametrize(("patience", "steps"), [(0, 20), (1, 6), (2, 8), (3, 10)])
def test_patience(patience, steps):
    scores = iter([0.5, 0.6, 0.7, *[0.65] * 20])
    course = train(
        make_learner(Bowl(), steps=20, patience=patience),
        make_exemplars(),
        lambda images: next(scores),
    )
    assert len(course.meta_losses) == steps
    assert (course.stopped is not None) == (patience > 0)


def test_patience_that_ends_with_the_last_step_stops_nothing():
    scores = iter([0.5, 0.4])
    learner = make_learner(Bowl(), steps=2, patience=1)
    course = train(learner, make_exemplars(), lambda images: next(scores))
    assert (len(course.meta_losses), course.steps_kept, course.stopped) == (2, 0, None)


def test_a_level_score_is_no_better_one():
    course = train(make_learner(Bowl(), steps=20, patience=2), make_exemplars(), lambda images: 0.5)
    assert [score for _, score in course.validations] == [0.5] * 3
    assert course.stopped


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (lambda loss, gradient: (loss * math.nan, gradient), "nan"),
        (lambda loss, gradient: (loss, gradient / 0), "not finite"),
        (lambda loss, gradient: (loss, gradient * 1e30), "not finite"),
        (lambda loss, gradient: (tf.constant(11.0), gradient), "rose from"),
    ],
    ids=["loss", "gradient", "huge gradient", "divergence"],
)
def test_trouble_stops_learning_and_keeps_the_last_good_exemplars(trouble, message):
    exemplars, seen = make_exemplars(), []

    def validate(images):
        seen.append(images.copy())
        return float(len(seen))

    course = train(make_learner(Bowl({5: trouble})), exemplars, validate)
    assert message in course.stopped
    assert len(course.meta_losses) == 5
    np.testing.assert_array_equal(exemplars.images, seen[2])  # of step 4, the last validation
    assert np.all(np.isfinite(exemplars.images))


def test_trouble_where_nothing_validates_leaves_the_start(caplog):
    exemplars = make_exemplars()
    start = exemplars.images.copy()
    trouble = {5: lambda loss, gradient: (loss * math.nan, gradient)}
    course = train(make_learner(Bowl(trouble)), exemplars)
    assert (len(course.meta_losses), course.steps_kept) == (5, 0)
    np.testing.assert_array_equal(exemplars.images, start)
    assert "the exemplars stay unlearned" in caplog.text


def test_who_stops_while_exemplars_are_judged_goes_on_from_there():
    def run(validate, resume=None):
        exemplars, saved = make_exemplars(), {}

        def save(step, state):
            saved[step] = {name: values.copy() for name, values in state().items()}

        companions = Companions(silent, validate, save=save, resume=resume)
        try:
            course = make_learner(Bowl()).train_new(exemplars, make_outer(), companions, "e")
        except InterruptedError:
            return None, exemplars.images, saved
        return course, exemplars.images, saved

    def score(images):
        return float(-abs(np.mean(images)))

    calls = []

    def given_up(images):
        calls.append(images)
        if len(calls) == 3:
            raise InterruptedError
        return score(images)

    course, images, _ = run(score)
    _, _, saved = run(given_up)
    assert max(saved) == 4
    again, same_images, _ = run(score, (4, saved[4]))
    assert again.validations == course.validations
    np.testing.assert_array_equal(same_images, images)


def test_no_array_of_all_exemplars_is_held_twice():
    """They may be the most that a run holds in memory."""
    exemplars, saved = make_exemplars(), {}
    begun, values = exemplars.images, exemplars.images.copy()

    def save(step, state):
        assert state()["best"] is begun  # which is what the shift is measured from
        saved[step] = {name: array.copy() for name, array in state().items()}

    learner = make_learner(Bowl())
    learner.train_new(exemplars, make_outer(), Companions(silent, save=save), "e")
    np.testing.assert_array_equal(begun, values)

    resumed, held, learned = saved[3], {}, make_exemplars()
    again = Companions(silent, save=lambda step, state: held.update(state()), resume=(3, resumed))
    learner.train_new(learned, make_outer(), again, "e")
    for name in ("images", "first", "second", "best"):
        assert held[name] is resumed[name]
    assert learned.images is held["images"]
    np.testing.assert_array_equal(learned.images, exemplars.images)


def test_a_loss_may_rise_within_bounds():
    rise = {step: lambda loss, gradient: (tf.constant(9.0), gradient) for step in (3, 4)}
    course = train(make_learner(Bowl(rise)), make_exemplars())
    assert course.stopped is None
    assert len(course.meta_losses) == 6


def test_trouble_in_the_first_step_leaves_the_start():
    exemplars = make_exemplars()
    start = exemplars.images.copy()
    course = train(make_learner(Bowl({0: lambda loss, g: (loss * math.nan, g)})), exemplars)
    assert course.stopped
    assert course.meta_losses == []
    np.testing.assert_array_equal(exemplars.images, start)


def test_the_seed_decides_the_course():
    def pictures(seed):
        exemplars = make_exemplars()
        train(make_learner(Bowl(), exemplars_per_step=6, seed=seed), exemplars)
        return exemplars.images

    np.testing.assert_array_equal(pictures(0), pictures(0))
    assert np.any(pictures(0) != pictures(1))


@pytest.mark.parametrize("prefers_start", [False, True])
def test_a_tie_with_the_start(prefers_start):
    """A probe takes the later ones, a rehearsal the start; after a resumption too."""
    scores, saved, exemplars = iter([0.5, 0.4, 0.5, 0.5]), {}, make_exemplars()
    start = exemplars.images.copy()

    def save(step, state):
        saved[step] = {name: values.copy() for name, values in state().items()}

    companions = Companions(silent, lambda images: next(scores), prefers_start, save=save)
    make_learner(Bowl()).train_new(exemplars, make_outer(), companions, "e")
    assert np.array_equal(exemplars.images, start) == prefers_start

    exemplars = make_exemplars()
    again = Companions(silent, lambda _: 0.5, prefers_start, resume=(2, saved[2]))
    make_learner(Bowl()).train_new(exemplars, make_outer(), again, "e")
    assert np.array_equal(exemplars.images, start) == prefers_start


@pytest.mark.parametrize("bound", [255.0, 1.0])
@pytest.mark.parametrize("stopped_at", [1, 3, 4, 6])
def test_learning_goes_on_from_what_was_saved(stopped_at, bound):
    """Only half of the rows have a turn in a step, so their own moments and counts matter.

    What their shift is measured from is where they began, and not where they were stopped.
    """
    scores = {0: 0.5, 2: 0.9, 4: 0.7, 6: 0.6}

    def run(resume=None):
        exemplars, saved, now = make_exemplars(), {}, [resume[0] if resume else 0]

        def report(step, metrics, seconds):
            now[0] = step

        def save(step, state):
            saved[step] = {name: values.copy() for name, values in state().items()}

        companions = Companions(report, lambda images: scores[now[0]], save=save, resume=resume)
        learner = make_learner(Bowl(), exemplars_per_step=6, max_shift=bound)
        course = learner.train_new(exemplars, make_outer(), companions, "exemplars", 2)
        return course, exemplars.images, saved

    course, images, saved = run()
    again, same_images, _ = run((stopped_at, saved[stopped_at]))
    assert list(saved) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(same_images, images)
    assert again.meta_losses == course.meta_losses
    assert again.validations == course.validations


def test_outer_batches_are_balanced_and_new_in_every_step():
    labels = np.repeat(np.arange(3), [40, 20, 30])
    batches = [make_outer(labels).batch(np.arange(1), "exemplars", 0, step) for step in range(5)]
    for batch in batches:
        rows = batch["row"].numpy()
        assert len(np.unique(rows)) == 6
        np.testing.assert_array_equal(batch["label"], labels[rows])
        np.testing.assert_array_equal(np.bincount(batch["label"]), [2, 2, 2])
    assert len({tuple(batch["row"].numpy()) for batch in batches}) == 5
    again = make_outer(labels).batch(np.arange(1), "exemplars", 0, 3)
    np.testing.assert_array_equal(again["row"], batches[3]["row"])
    other = make_outer(labels, seed=1).batch(np.arange(1), "exemplars", 0, 3)
    assert np.any(other["row"] != batches[3]["row"])


# --- adjusting old exemplars ---------------------------------------------------------------------


def still(loss, gradient):
    return loss, tf.zeros_like(gradient)


def rows_of(images) -> list[int]:
    """The rows that images began as, from their first pixel; only where nothing moved."""
    return np.rint(100 * np.asarray(images)[:, 0, 0, 0]).astype(int).tolist()


def adjust(model, exemplars, num_subsets=2, **changes):
    learner = make_learner(model, **changes)
    return learner.adjust_old(exemplars, num_subsets, Companions(silent), "adjust", 3)


@pytest.mark.parametrize("num_subsets", [2, 3, 4])
@pytest.mark.parametrize("fixed_classes", [(), (2,)])
def test_a_subset_is_measured_on_its_complement_only(num_subsets, fixed_classes):
    model = Bowl(dict.fromkeys(range(12), still))
    exemplars = make_exemplars(per_class=4, fixed_classes=fixed_classes)
    adjust(model, exemplars, num_subsets, steps=12)
    for start in range(0, 12, num_subsets):
        around = model.calls[start : start + num_subsets]
        inner = [rows_of(call["images"]) for call in around]
        assert sorted(sum(inner, [])) == list(range(12))  # each in exactly one subset
        for call, rows in zip(around, inner, strict=True):
            outer = rows_of(call["image"])
            assert not set(rows) & set(outer)
            assert sorted(rows + outer) == list(range(12))
            np.testing.assert_array_equal(call["label"], exemplars.labels[outer])
            counts = np.bincount(exemplars.labels[rows], minlength=3)
            assert counts.max() - counts.min() <= 1


def test_the_complement_is_seen_as_it_stands_by_then():
    model, exemplars = Bowl(), make_exemplars()
    adjust(model, exemplars, steps=2)
    first, second = model.calls
    moved = second["image"].numpy()[np.argsort(second["label"], kind="stable")]
    assert np.all(np.any(moved != first["images"], axis=(1, 2, 3)))
    distances = [np.abs(images - TARGET).mean() for images in (first["images"], moved)]
    assert distances[1] < distances[0]


def test_adjustment_moves_learning_rows_alone():
    exemplars = make_exemplars(fixed_classes=[2])
    start = exemplars.images.copy()
    course = adjust(Bowl(), exemplars)
    assert len(course.meta_losses) == 6
    np.testing.assert_array_equal(exemplars.images[8:], start[8:])
    assert np.all(np.any(exemplars.images[:8] != start[:8], axis=(1, 2, 3)))


def test_the_outer_batch_is_a_balanced_part_of_the_complement():
    model = Bowl()
    adjust(model, make_exemplars(per_class=6), outer_batch_size=6)
    for call in model.calls:
        np.testing.assert_array_equal(np.bincount(call["label"]), [2, 2, 2])


@pytest.mark.parametrize("num_subsets", [2, 3, 5])
@pytest.mark.parametrize("counts", [[6, 6, 6], [5, 7, 4], [3, 0, 8], [1, 1, 1]])
def test_split_balanced(counts, num_subsets):
    labels = np.repeat(np.arange(3), counts)
    subset = split_balanced(labels, num_subsets, np.random.default_rng(0))
    assert subset.shape == labels.shape
    for label in range(3):
        sizes = np.bincount(subset[labels == label], minlength=num_subsets)
        assert len(sizes) == num_subsets
        assert sizes.sum() == counts[label]
        assert sizes.max() - sizes.min() <= 1
    most, most_left = largest_parts(labels, num_subsets)
    sizes = np.bincount(subset, minlength=num_subsets)
    assert sizes.max() <= most <= sizes.min() + np.count_nonzero(counts)
    assert len(labels) - sizes.min() <= most_left


def test_what_does_not_divide_falls_into_any_subset():
    labels = np.repeat(np.arange(50), 3)
    subset = split_balanced(labels, 2, np.random.default_rng(0))
    assert 60 < subset.sum() < 90


def test_the_split_is_random():
    labels = np.repeat(np.arange(3), 4)
    splits = {tuple(split_balanced(labels, 2, np.random.default_rng(seed))) for seed in range(10)}
    assert len(splits) > 5
