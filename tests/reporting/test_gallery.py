"""The exemplars of runs as a report shows them."""

import numpy as np
import pytest

from mnemonics_tf import report as report_module
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.reporting import embedding
from mnemonics_tf.reporting.drift import Drift, pixel_drift
from mnemonics_tf.reporting.embedding import embed
from mnemonics_tf.reporting.gallery import difference, gallery
from mnemonics_tf.reporting.groups import group_runs
from mnemonics_tf.reporting.pictures import galleries
from mnemonics_tf.reporting.runs import load_runs
from tests.reporting.report_runs import contents, with_learned, write_run


def test_the_gallery_shows_where_exemplars_began_and_how_far_they_moved(tmp_path):
    run = contents(exemplar__exemplars="mnemonics")
    shown = gallery(group_runs(load_runs([write_run(tmp_path / "a", run, moved=4).root]))[0])
    assert shown.starts_known
    assert len(shown.cards) == 10
    for card in shown.cards:
        assert card.moved.tolist() == [4.0, 4.0]
        assert card.farthest.tolist() == [4, 4]
        np.testing.assert_array_equal(card.now - card.start, 4)
    assert shown.amplification == 16
    assert set(np.unique(difference(shown.cards[0], 16))) == {128 + 64}
    # A run of an earlier version keeps no starts; those that never moved are shown as they are.
    (older,) = group_runs(load_runs([write_run(tmp_path / "b", run, moved=4, starts=False).root]))
    assert not gallery(older).starts_known
    assert not gallery(older).any_moved
    (herding,) = group_runs(load_runs([write_run(tmp_path / "c", contents()).root]))
    assert not gallery(herding).any_moved


LEARNED = {"exemplar__exemplars": "mnemonics"}


def test_the_gallery_shows_what_learned_in_a_further_phase_alone(tmp_path):
    """Beside what the phases before kept as it was."""
    directory = write_run(tmp_path, with_learned(contents(), **LEARNED), moved=4)
    directory.exemplar_starts(0).unlink()
    groups = group_runs(load_runs([directory.root]))
    shown = gallery(groups[0])
    assert shown.starts_known
    assert [card.moved.max() for card in shown.cards] == [0] * 5 + [4] * 5
    directory.exemplar_starts(1).unlink()
    assert not gallery(groups[0]).starts_known
    assert "As first stored: none has changed since" in galleries(groups)


def test_exemplars_that_learned_in_a_further_phase_are_no_selection_s(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_tsne", lambda parts: [part[:, :2] for part in parts])
    run = with_learned(contents(), **LEARNED) | {"class_order": list(range(10))}
    (read,) = load_runs([write_run(tmp_path, run).root])
    pictures = embed(read, load_digits(), lambda phase, images: images.reshape(len(images), -1))
    ways = [list(picture.exemplars) for picture in pictures]
    assert ways == [["random", "herding"], ["random", "herding", "herding and mnemonics"]]


def test_what_was_not_passed_as_a_directory_is_left_out_and_no_more(tmp_path, write, monkeypatch):
    """The first of three seeds, and the one run of another group."""
    bare = write(contents(), contents(training__epochs=3, exemplar__exemplars="mnemonics"))
    whole = [write_run(tmp_path / f"{seed}", contents(seed)) for seed in (1, 2)]
    memory = ExemplarMemory.load(whole[1].exemplars(1))
    images = memory.images
    images[memory.labels == 0] += np.uint8(10)  # as adjusting may leave one class of ten
    ExemplarMemory(images, memory.labels).save(whole[1].exemplars(1))
    paths = [*bare, *(str(directory.root) for directory in whole)]
    (group, other) = group_runs(load_runs(paths))
    assert (gallery(group).seed, gallery(other)) == ("1", None)
    assert (pixel_drift(group), pixel_drift(other)) == (Drift([0, 0.5], ["1", "2"]), None)
    opened = []

    def refuse(directory, data_dir):
        opened.append(directory.root)
        raise UserError("not opened")

    monkeypatch.setattr(report_module, "_opened", refuse)
    report_module.report(paths, tmp_path / "page.html", "")
    assert opened == [whole[0].root]
    text = (tmp_path / "page.html").read_text()
    assert "Left out: not opened" in text
    assert "Of the seeds whose exemplars can be seen alone: lwf, herding (seed 1, 2)." in text
    assert "Not known: lwf, mnemonics. It is seen in run directories" in text
    assert "Not shown: lwf, mnemonics. Exemplars are seen in run directories" in text


def test_the_t_sne_is_that_of_a_run_that_learned_exemplars_in_a_further_phase(
    tmp_path, monkeypatch
):
    extended = with_learned(contents(training__epochs=3), **LEARNED)
    roots = [write_run(tmp_path / f"{i}", run).root for i, run in enumerate((contents(), extended))]

    def refuse(directory, data_dir):
        raise UserError(f"{directory.root.name} is not opened")

    monkeypatch.setattr(report_module, "_opened", refuse)
    groups = group_runs(load_runs(roots))
    assert report_module._embedded(groups, "").reason.startswith("1 is not opened")


def test_starts_that_are_not_the_phase_s_are_named(tmp_path):
    directory = write_run(tmp_path, contents(exemplar__exemplars="mnemonics"), moved=4)
    other = ExemplarMemory(np.zeros((1, 8, 8, 1), np.uint8), np.array([7]))
    other.save(directory.exemplar_starts(0))
    (group,) = group_runs(load_runs([directory.root]))
    with pytest.raises(UserError, match="00/exemplar_starts.npz holds images .* from 0 to 4: put"):
        gallery(group)
