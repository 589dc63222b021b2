"""A backbone of the user's own in a run directory, which stands by itself afterwards."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.flags import settings_from_flags
from mnemonics_tf.models.resnet import Backbone
from mnemonics_tf.phases import phase0
from mnemonics_tf.phases.backbone import (
    check_second_order,
    note_backbone,
    refuse_other_backbone,
    warn_of_slow_statistics,
)
from mnemonics_tf.registry import own_code
from mnemonics_tf.run.files import read_json, write_json, write_text
from mnemonics_tf.serving.export import ExportedClasses, export_phase
from tests.models.small_models import layers, uneven
from tests.reporting.report_runs import contents

SHAPE = (8, 8, 1)


def model(units: int = 4, seed: int = 0, more=()) -> keras.Model:
    return uneven(
        keras.Sequential(
            [
                keras.Input(SHAPE),
                layers.Conv2D(units, 3),
                layers.BatchNormalization(),
                layers.Normalization(),
                *more,
                layers.GlobalMaxPooling2D(),
            ]
        ),
        seed,
    )


class Changing:
    """A model that code makes, and makes otherwise later."""

    units = 4

    @classmethod
    def build(cls, image_shape, seed):
        return model(cls.units)


build = Changing.build


def build_parts(image_shape, seed):
    return model(more=[layers.SeparableConv2D(4, 3, name="apart")])


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture
def file(tmp_path):
    model().save(tmp_path / "mine.keras")
    return tmp_path / "mine.keras"


@pytest.fixture
def make(digits, parse, tmp_path):
    def make_experiment(*flags: str, run="run") -> Experiment:
        wanted = settings_from_flags(parse(f"--run_dir={tmp_path}/{run}", *flags))
        return Experiment(wanted, digits, tf.distribute.get_strategy())

    return make_experiment


def begun(experiment: Experiment) -> Experiment:
    note_backbone(experiment.directory, experiment.workshop.architecture.own)
    return experiment


def refuse_other(experiment: Experiment) -> None:
    refuse_other_backbone(experiment.settings, experiment.preprocessing, experiment.directory)


def first_state(experiment: Experiment) -> dict[str, np.ndarray]:
    return experiment.begin_phase(experiment.protocol.phases[0]).model.state()


def test_a_run_keeps_it(make, file):
    before = first_state(begun(make(f"--backbone={file}")))
    file.unlink()
    again = make(f"--backbone={file}")
    for path, array in first_state(again).items():
        np.testing.assert_array_equal(array, before[path], err_msg=path)
    refuse_other(again)


def test_another_file_in_its_place_is_refused(make, file):
    begun(make(f"--backbone={file}"))
    refuse_other(make(f"--backbone={file}"))
    for other, parts in ((model(5), "configuration and weights"), (model(seed=1), "weights")):
        other.save(file)
        with pytest.raises(UserError, match=f"--backbone=.* holds another model .{parts}. than"):
            refuse_other(make(f"--backbone={file}"))


def test_code_that_builds_another_model_is_refused(make, monkeypatch):
    flag = f"--backbone={__name__}:build"
    before = first_state(begun(make(flag)))
    monkeypatch.setattr(Changing, "units", 5)
    with pytest.raises(UserError, match="builds another model than the one that .*run was begun"):
        make(flag)
    monkeypatch.undo()
    after = first_state(make(flag))
    np.testing.assert_array_equal(after["conv2d_1/kernel"], before["conv2d_1/kernel"])


def test_what_lies_in_the_run_is_checked(make, file):
    directory = begun(make(f"--backbone={file}")).directory
    noted = read_json(directory.backbone)
    write_json(directory.backbone, {**noted, "digests": {**noted["digests"], "configuration": "0"}})
    with pytest.raises(UserError, match="backbone.json is damaged .it is not what its digests say"):
        make(f"--backbone={file}")
    code = keras.saving.serialize_keras_object(model(more=[layers.Lambda(lambda x: x)]))
    write_json(directory.backbone, {**noted, "configuration": code})
    with pytest.raises(UserError, match="backbone.json is damaged .*Lambda"):
        make(f"--backbone={file}")
    write_json(directory.backbone, noted)
    np.savez(directory.backbone_weights, **{"0": np.zeros(3)})
    with pytest.raises(UserError, match="backbone.npz is damaged"):
        make(f"--backbone={file}")


def test_phase_0_is_shared_by_the_same_model_alone(make, file, tmp_path):
    def fingerprint(experiment):
        architecture = experiment.workshop.architecture
        return phase0.fingerprint(
            experiment.settings, experiment.protocol, architecture, phase0.Origin(0, "off")
        )

    expected = fingerprint(make(f"--backbone={file}"))
    elsewhere = tmp_path / "elsewhere.keras"
    shutil.copy(file, elsewhere)
    assert fingerprint(make(f"--backbone={elsewhere}")) == expected
    assert fingerprint(make(f"--backbone={file}", "--backbone_input=0..255")) != expected
    model(seed=1).save(elsewhere)
    assert fingerprint(make(f"--backbone={elsewhere}")) != expected


@pytest.mark.parametrize("flags", [
    ("--weight_transfer",),
    ("--exemplars=mnemonics", "--inner_scope=transfer"),
])  # fmt: skip
def test_transfer_of_what_can_not_be_frozen_is_refused(make, flags):
    backbone = f"--backbone={__name__}:build_parts"
    with pytest.raises(
        UserError, match=rf"{flags[-1]} with .* apart .SeparableConv2D.; leave that"
    ):
        make(backbone, *flags)
    make(backbone, flags[0] if flags[1:] else "--noweight_transfer")


FAMILY = Backbone(lambda image_shape, depth, seed: model(seed=seed), lambda depth: None)


def test_transfer_in_a_family_without_layers_for_it_is_refused(make):
    backbone = f"--backbone={__name__}:FAMILY"
    with pytest.raises(UserError, match="--weight_transfer with .*FAMILY: none of its layers"):
        make(backbone, "--weight_transfer")
    make(backbone)


def build_renormalised(image_shape, seed):
    frozen = layers.BatchNormalization(renorm=True, trainable=False)
    return model(more=[layers.BatchNormalization(renorm=True, name="again"), frozen])


@pytest.mark.parametrize(("name", "advice"), [
    ("FAMILY", "batch_normalization.* use BatchNormalization of mnemonics_tf.models.layers"),
    ("build_renormalised", r"layers: again .BatchNormalization.; .* without renorm"),
])  # fmt: skip
def test_batch_statistics_with_a_wrong_second_gradient_are_refused_in_time(make, name, advice):
    wanted = (f"--backbone={__name__}:{name}", "--exemplars=mnemonics", "--inner_batch_statistics")
    refused = make(*wanted, "--inner_scope=all")
    with pytest.raises(UserError, match=advice), refused.session(console=False):
        pass
    assert not refused.directory.root.exists()
    right = (
        make(*wanted, run="classifier"),  # trains on features
        make(*wanted, "--inner_scope=all", "--exemplars=herding", run="herding"),
        make(*wanted, "--inner_scope=all", "--meta_gradient=first_order", run="first_order"),
        make(f"--backbone={__name__}:build", *wanted[1:], "--inner_scope=all", run="plain"),
        make(*wanted[1:], "--inner_scope=all", run="resnet"),
    )
    for experiment in right:
        check_second_order(experiment.settings, experiment.workshop.architecture)
    write_json(refused.directory.settings, {})  # a run that exists goes on
    with refused.session(console=False):
        pass


def build_derived(image_shape, seed):
    return model(more=[Derived(name="mine")])


class Derived(layers.LayerNormalization):
    """A layer whose place none of this project's takes."""


def test_normalisation_with_a_wrong_second_gradient_is_refused_in_time(make):
    wanted = (f"--backbone={__name__}:build_derived", "--exemplars=mnemonics")
    refused = make(*wanted, "--inner_scope=all")
    advice = "--inner_scope=all with .*: mine .Derived.; make .* or pass --inner_scope=classifier"
    with pytest.raises(UserError, match=advice), refused.session(console=False):
        pass
    assert not refused.directory.root.exists()
    more = ["--inner_scope=classifier", "--meta_gradient=first_order", "--objective=class_means"]
    for flag in more:
        experiment = make(*wanted, "--inner_scope=all", flag, run=flag)
        check_second_order(experiment.settings, experiment.workshop.architecture)
    write_json(refused.directory.settings, {})  # a run that exists goes on
    with refused.session(console=False):
        pass


@pytest.mark.parametrize(("images", "warns"), [(64, True), (64 * 300, False)])
def test_statistics_that_are_slower_than_phase_0(make, file, caplog, images, warns):
    experiment = make(f"--backbone={file}", "--base_epochs=2")
    own = experiment.workshop.architecture.own
    with caplog.at_level("WARNING"):
        warn_of_slow_statistics(experiment.settings, own, images)
    assert ("momentum 0.99: after the 2 steps of phase 0 they are to 98%" in caplog.text) == warns


def test_weights_of_a_file(make, tmp_path):
    model(seed=1).save_weights(tmp_path / "other.weights.h5")
    flags = (f"--backbone={__name__}:build", f"--backbone_weights={tmp_path}/other.weights.h5")
    kernels = [first_state(make(*flags[:n], run=f"run{n}"))["conv2d_1/kernel"] for n in (1, 2)]
    np.testing.assert_array_equal(kernels[1], model(seed=1).weights[0].numpy())
    assert not np.array_equal(*kernels)
    with pytest.raises(UserError, match="--backbone=resnet_cifar: it is for a model of your own"):
        make(flags[1])


def test_results_tell_what_a_backbone_has_from_files(make, file, tmp_path):
    """What is drawn, and the configuration that code makes, may be another with every seed."""
    model(seed=1).save_weights(tmp_path / "other.weights.h5")
    weights = f"--backbone_weights={tmp_path}/other.weights.h5"
    code, told = f"--backbone={__name__}:build", []
    for i, flags in enumerate([(f"--backbone={file}",), (code,), (code, weights), (code,)]):
        experiment = begun(make(*flags, run=f"run{i}"))
        directory, phase = experiment.directory, experiment.protocol.phases[0]
        write_text(directory.flags, experiment.settings.flag_lines())
        write_json(directory.record(0), contents()["phases"][0])
        if i == 3:
            write_json(directory.backbone, {})  # damaged: no reason to write no results
        found = experiment.write_results([phase], experiment.settings)["backbone_digests"]
        told.append((found, experiment.workshop.architecture.own.digests))
    (from_file, digests), (drawn, _), (loaded, others), (damaged, _) = told
    assert (from_file, drawn, damaged) == (digests, None, None)
    assert loaded == {"weights": others["weights"]}


def test_files_and_applications_are_no_code(parse):
    for name in ("keras.applications:MobileNetV3Small", "some.keras"):
        assert own_code(settings_from_flags(parse(f"--backbone={name}"))) == {}


@pytest.mark.slow
def test_an_export_says_what_the_model_says(make, file, digits, tmp_path):
    experiment = make(f"--backbone={file}", "--backbone_input=-1..1", "--weight_transfer")
    state = experiment.begin_phase(experiment.protocol.phases[0])
    state.model.set_transfer(True)
    for layer in state.model.transfer_layers():
        layer.transfer_scale.assign(layer.transfer_scale * 1.5)
    images = digits.test_set([0, 1]).load_all()[:5]
    normalization = experiment.workshop.pipeline.normalization
    expected = state.model(normalization.normalize(images))
    ids = tuple(range(state.phase.num_seen))
    classes = ExportedClasses(ids, tuple(map(str, ids)))
    path = export_phase(
        *(tmp_path / "export" / "digits", 1, state.model, classes, normalization),
        *(np.eye(len(ids), state.model.feature_size), {}, images[:1]),
    )
    session = tf.compat.v1.Session(graph=tf.Graph())  # the way of TensorFlow Serving
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        signature = loaded.signature_def["features"]
        found = session.run(
            signature.outputs["features"].name, {signature.inputs["images"].name: images}
        )
    np.testing.assert_allclose(found, expected.features, atol=1e-5)
