import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.flags import settings_from_flags
from mnemonics_tf.settings import (
    AdjustmentSettings,
    DataSettings,
    ExemplarSettings,
    InnerSettings,
    OuterSettings,
    ProtocolSettings,
    RunSettings,
    Settings,
    TrainingSettings,
    all_fields,
)


def test_names_are_unique_over_all_groups():
    names = [field.name for _, field, _ in all_fields(Settings())]
    assert len(set(names)) == len(names)


CHANGED = Settings(
    RunSettings(run_dir="runs/with space", download=True, checkpoint_minutes=0.5),
    ProtocolSettings(class_order=tuple(range(10))[::-1], base_classes=6, num_phases=2),
    training=TrainingSettings(learning_rate_milestones=(), learning_rate=1 / 3, weight_decay=0.0),
    inner=InnerSettings(inner_augmentation=False),
    adjustment=AdjustmentSettings(adjust_old_exemplars=True),
)


@pytest.mark.parametrize("settings", [Settings(), CHANGED], ids=["defaults", "changed"])
def test_settings_come_back_from_a_flagfile(parse, tmp_path, settings):
    path = tmp_path / "flags.txt"
    path.write_text(settings.flag_lines())
    assert settings_from_flags(parse(f"--flagfile={path}")) == settings


def test_a_run_that_was_trained_in_parts_is_repeated_to_its_end(parse, tmp_path):
    path = tmp_path / "flags.txt"
    path.write_text(Settings(RunSettings("runs/a", last_phase=0)).flag_lines())
    assert settings_from_flags(parse(f"--flagfile={path}")) == Settings(RunSettings("runs/a"))


def test_what_decides_results_survives_json():
    values = CHANGED.results_settings()
    assert json.loads(json.dumps(values)) == values
    assert "run" not in values
    assert values["protocol"]["class_order"] == list(range(10))[::-1]
    moved = dataclasses.replace(CHANGED, run=RunSettings(run_dir="elsewhere"))
    assert moved.results_settings() == values


def test_what_was_chosen():
    assert Settings(RunSettings("elsewhere")).chosen() == {}
    assert Settings(protocol=ProtocolSettings(base_classes=6, seed=0)).chosen() == {
        "base_classes": 6
    }


def wrong(group: str, **values):
    """A case: a value out of its range, and what the message has to name."""
    ((name, value),) = values.items()
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return pytest.param(group, values, f"--{name}={text}", id=f"{name}={text}")


OUT_OF_RANGE = [
    wrong("protocol", base_classes=0),
    wrong("protocol", num_phases=-1),
    wrong("protocol", class_order_seed=-1),
    wrong("protocol", seed=-1),
    wrong("data", image_size=-1),
    wrong("data", split_seed=-1),
    wrong("data", test_share=0.0),
    wrong("data", test_share=1.0),
    wrong("training", base_epochs=0),
    wrong("training", epochs=0),
    wrong("training", batch_size=0),
    wrong("training", finetune_epochs=-1),
    wrong("training", evaluation_batch_size=0),
    wrong("training", weight_decay=-0.1),
    wrong("training", learning_rate=0.0),
    wrong("training", learning_rate=-0.1),
    wrong("training", finetune_learning_rate=0.0),
    wrong("training", temperature=0.0),
    wrong("training", learning_rate_decay=0.0),
    wrong("training", classification_weight=1.5),
    wrong("training", classification_weight=-0.5),
    wrong("training", momentum=1.1),
    wrong("training", learning_rate_milestones=(0.75, 0.5)),
    wrong("training", learning_rate_milestones=(0.5, 1.0)),
    wrong("training", learning_rate_milestones=(80.0, 120.0)),
    wrong("exemplar", exemplars_per_class=0),
    wrong("exemplar", exemplars_total=-1),
    wrong("inner", inner_steps=0),
    wrong("inner", inner_learning_rate=0.0),
    wrong("outer", outer_learning_rate=-1.0),
    wrong("adjustment", adjust_subsets=1),
    wrong("run", checkpoint_minutes=-1.0),
    wrong("run", checkpoint_epochs=-1),
    wrong("run", checkpoint_outer_steps=-1),
    wrong("protocol", seed=2**31),
    wrong("training", learning_rate=float("inf")),
]


@pytest.mark.parametrize(("group", "values", "named"), OUT_OF_RANGE)
def test_values_out_of_range(group, values, named):
    kinds = {
        "run": RunSettings,
        "protocol": ProtocolSettings,
        "data": DataSettings,
        "training": TrainingSettings,
        "exemplar": ExemplarSettings,
        "inner": InnerSettings,
        "outer": OuterSettings,
        "adjustment": AdjustmentSettings,
    }
    with pytest.raises(UserError, match="pass ") as caught:
        Settings(**{group: kinds[group](**values)})
    assert str(caught.value).startswith(f"{named}: ")


@pytest.mark.parametrize("name", ["run_dir", "data_dir", "dataset", "phase_classes"])
def test_texts_that_flags_txt_can_t_hold(name):
    with pytest.raises(UserError, match=rf"--{name}=caf\\xe9 is not UTF-8"):
        Settings().changed(**{name: "caf\udce9"})


def test_not_a_number_is_out_of_range():
    with pytest.raises(UserError, match="--learning_rate=nan"):
        Settings(training=TrainingSettings(learning_rate=float("nan")))


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("protocol", "seed", "1"),
        ("protocol", "seed", True),
        ("protocol", "seed", 1.0),
        ("protocol", "class_order", [[1]]),
        ("protocol", "class_order", 3),
        ("training", "method", ["lwf"]),
        ("training", "learning_rate", None),
        ("model", "weight_transfer", 1),
        ("model", "depth", 1000000008),
        ("model", "no_such_setting", 1),
    ],
)
def test_stored_settings_of_the_wrong_kind(group, name, value):
    values = Settings().results_settings()
    values[group][name] = value
    with pytest.raises(UserError, match=f"{name}=?"):
        Settings.from_results_settings(values, RunSettings())


@pytest.mark.parametrize(
    ("name", "value"), [("run_dir", "elsewhere"), ("data_dir", "/secret"), ("download", True)]
)
def test_a_runs_file_does_not_say_where_and_how_to_run(name, value):
    """It may be a stranger's."""
    values = Settings().results_settings()
    values["protocol"][name] = value
    with pytest.raises(UserError, match=f"it sets --{name}, which no run notes"):
        Settings.from_results_settings(values, RunSettings())


def test_a_whole_number_means_what_it_means_as_a_flag():
    written = json.dumps(Settings().changed(max_shift=4).results_settings())
    assert '"max_shift": 4.0' in written


def test_exemplars_of_a_run_that_knew_no_bound_had_none():
    values = Settings().results_settings()
    assert values["outer"].pop("max_shift") < 255
    assert Settings.from_results_settings(values, RunSettings()).outer.max_shift == 255


def test_a_run_that_knew_no_bound_names_its_checkpoints_as_before():
    assert Settings().changed(max_shift=255.0).chosen_in_any_version() == {}
    bounded = Settings().changed(max_shift=2.0, method="bic").chosen_in_any_version()
    assert bounded == {"max_shift": 2.0, "method": "bic"}


#: test files that look at how flags are read, not at what they do
WITHOUT_EFFECT = {"test_settings.py", "test_flags.py", "test_flag_files.py", "test_earlier_run.py"}


def test_every_setting_is_named_by_a_test_of_its_effect():
    tests = pathlib.Path(__file__).resolve().parent
    files = [path for path in tests.rglob("*.py") if path.name not in WITHOUT_EFFECT]
    words = set().union(*(re.findall(r"\w+", path.read_text("utf-8")) for path in files))
    names = {field.name for _, field, _ in all_fields(Settings())}
    # Of a boolean flag its opposite may be what is passed.
    assert {name for name in names if not {name, f"no{name}"} & words} == set()


def test_numbers_and_lists_of_python_programs_are_taken():
    settings = Settings().changed(
        outer_learning_rate=np.float64(0.01), outer_steps=np.int64(20), class_order=[2, 0, 1]
    )
    assert settings == Settings().changed(
        outer_learning_rate=0.01, outer_steps=20, class_order=(2, 0, 1)
    )
    assert type(settings.outer.outer_steps) is int
    assert type(settings.outer.outer_learning_rate) is float
