"""Several sources as one, and what of a source is fixed when a run begins."""

import numpy as np
import pytest

from mnemonics_tf.data.joined import JoinedSource, Part
from mnemonics_tf.data.measured import MeasuredSource
from mnemonics_tf.data.preprocessing import Preprocessing
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.run.data_facts import data_facts, noted_preprocessing, preprocessing_of
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_json


def source_of(names: str, first: int) -> MeasuredSource:
    """A source of classes with the names' letters, whose ids are no run's."""
    training, test = (
        {first + k: np.full((count, 2, 2, 1), ord(name), np.uint8) for k, name in enumerate(names)}
        for count in (3, 2)
    )
    return MeasuredSource("letters", training, test, list(names))


@pytest.fixture
def joined() -> JoinedSource:
    old, new = source_of("ba", 5), source_of("dc", 0)
    parts = [
        Part((1, 2), ("a", "b"), (7, 8), old),
        Part((9,), ("x",), (4,), None),
        Part((11, 10), ("c", "d"), (3, 3), new),
    ]
    return JoinedSource("joined", parts, Preprocessing.of_all(old), None)


def letters(images) -> list[tuple[int, str]]:
    return [
        (label, chr(image[0, 0, 0]))
        for label, image in zip(images.labels.tolist(), images.load_all(), strict=True)
    ]


def test_classes_are_found_by_name_under_the_run_s_ids(joined):
    assert joined.original_ids == (1, 2, 9, 10, 11)
    assert joined.class_names == ("a", "b", "x", "d", "c")
    assert joined.training_counts_of([11, 9, 1]).tolist() == [3, 4, 7]
    found = letters(joined.test_set([2, 11, 9, 1]))  # x has none
    assert found == [(2, "b")] * 2 + [(11, "c")] * 2 + [(1, "a")] * 2
    assert joined.test_counts().tolist() == [2, 2, 0, 2, 2]
    assert letters(joined.training_set([10])) == [(10, "d")] * 3
    assert len(joined.test_set([9])) == 0


def test_training_images_are_released_or_not_there(joined):
    joined.release([1, 2, 9])
    with pytest.raises(LookupError, match="released"):
        joined.training_set([1])
    with pytest.raises(LookupError, match=r"classes \[9\] were not found"):
        joined.training_set([9])
    with pytest.raises(LookupError, match="do not exist"):
        joined.test_set([3])


def test_a_source_of_some_classes_alone():
    whole = source_of("abc", 4)
    part = whole.only([6, 4])
    assert (part.class_names, part.original_ids) == (("a", "c"), (4, 6))
    assert part.training_counts().tolist() == [3, 3]
    assert part.digests != whole.digests
    assert part.digests == source_of("abc", 4).only([4, 6]).digests
    with pytest.raises(LookupError):
        part.training_set([5])


def test_some_classes_of_a_source_that_counts_all_of_them(joined):
    """A source that holds nothing class by class, as one of a user's own may be."""
    part = joined.only([11, 2])
    assert (part.class_names, part.original_ids) == (("b", "c"), (2, 11))
    assert part.training_counts().tolist() == joined.training_counts_of([2, 11]).tolist()
    assert part.training_counts_of([11]).tolist() == [3]
    assert part.test_counts().tolist() == [2, 2]
    assert letters(part.test_set([2, 11])) == [(2, "b")] * 2 + [(11, "c")] * 2
    assert part.digests == part.only([2, 11]).digests
    assert part.digests != joined.only([1, 2]).digests
    assert joined.only(joined.original_ids[::-1]) is joined  # whose digests may be of its own kind
    assert part.released_of([2, 11]) == joined.released_of([2, 11])
    assert (part.image_shape, part.channel_mean) == (joined.image_shape, joined.channel_mean)
    assert part.statistics_of([2]) == joined.statistics_of([2])
    with pytest.raises(LookupError, match="do not exist"):
        part.training_set([1])
    part.release([2])
    with pytest.raises(LookupError, match="released"):
        part.training_set([2])


PROTOCOL = ClassIncrementalProtocol([5, 4, 6], 1, 2, original_ids=[4, 5, 6])


def test_a_run_normalises_by_the_images_of_phase_0(tmp_path):
    """Those of later phases are not known yet: here none of the mean is theirs."""
    source, directory = source_of("abc", 4), RunDirectory(tmp_path)
    found = preprocessing_of(directory, source, PROTOCOL)
    assert found.channel_mean == pytest.approx((ord("b") / 255,))
    assert source.channel_mean == pytest.approx((ord("b") / 255,))  # that of all three, too
    source = source_of("abz", 4)
    found = preprocessing_of(directory, source, PROTOCOL)
    assert found.channel_mean == pytest.approx((ord("b") / 255,))
    assert source.channel_mean[0] > ord("b") / 255
    write_json(directory.classes, data_facts(source, PROTOCOL, found))
    assert noted_preprocessing(directory) == found
    other = source_of("ayz", 4)
    # A run has begun once its settings are written; what an end before that left is nobody's.
    assert preprocessing_of(directory, other, PROTOCOL).channel_mean != found.channel_mean
    write_json(directory.settings, {})
    assert preprocessing_of(directory, other, PROTOCOL) == found


def test_runs_of_earlier_versions_keep_the_mean_of_all_classes(tmp_path):
    source, directory = source_of("abz", 4), RunDirectory(tmp_path)
    facts = data_facts(source, PROTOCOL, Preprocessing.of_all(source))
    del facts["preprocessing"]
    write_json(directory.classes, facts)
    write_json(directory.settings, {})
    found = preprocessing_of(directory, source, PROTOCOL)
    assert found.channel_mean == source.channel_mean
