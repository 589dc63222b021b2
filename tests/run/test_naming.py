"""The directory of a run for which none is named."""

import pathlib

from mnemonics_tf.phases.asked_for import settle
from mnemonics_tf.run.naming import default_run_dir
from mnemonics_tf.settings import Settings

DEFAULTS = Settings()


def test_it_is_named_by_what_is_run():
    assert default_run_dir(DEFAULTS) == "runs/digits_lwf_herding_N5_seed0"
    named = DEFAULTS.changed(dataset="tfds:a/b", method="icarl", num_phases=2, seed=3)
    assert default_run_dir(named) == "runs/tfds-a-b_icarl_herding_N2_seed3"
    folder = DEFAULTS.changed(dataset="folder", data_dir="/data/two cats")
    assert default_run_dir(folder) == "runs/folder-two-cats_lwf_herding_N5_seed0"


def test_other_settings_have_another_name_and_equal_ones_the_same():
    short, shorter = (DEFAULTS.changed(epochs=n) for n in (3, 2))
    names = {default_run_dir(each) for each in (DEFAULTS, short, shorter)}
    assert len(names) == 3
    assert default_run_dir(DEFAULTS.changed(epochs=3)) == default_run_dir(short)


def test_where_and_how_plays_no_part():
    elsewhere = DEFAULTS.changed(strategy="single", checkpoint_minutes=1.0, data_dir="there")
    assert default_run_dir(elsewhere) == default_run_dir(DEFAULTS)


def test_settings_are_settled_with_a_directory_and_the_whole_path_of_the_data(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of-mine")
    assert settle(DEFAULTS).run.run_dir == default_run_dir(DEFAULTS)
    assert settle(DEFAULTS.changed(run_dir="mine")).run.run_dir == "mine"
    for passed, found in {
        "data": str(pathlib.Path(tmp_path, "data")),
        "~/data": "/home/of-mine/data",
        "gs://bucket/data": "gs://bucket/data",
    }.items():
        assert settle(DEFAULTS.changed(data_dir=passed)).run.data_dir == found
