import logging
import re

import keras
import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.models.own_backbone import OwnBackbone, opens_own, read_source
from mnemonics_tf.settings import ModelSettings
from tests.models.small_models import SHAPE, mixed, plain

layers = keras.layers

DEFAULTS = ModelSettings()


def build(image_shape, seed):
    model = plain()
    return keras.Sequential(
        [keras.Input(image_shape), *model.layers, layers.Dense(3, name="drawn")]
    )


def build_two_outputs(image_shape, seed):
    images = keras.Input(image_shape)
    return keras.Model(images, [layers.Flatten()(images), images])


def build_maps(image_shape, seed):
    return keras.Sequential([keras.Input(image_shape), layers.Conv2D(4, 3)])


def build_other_size(image_shape, seed):
    return keras.Sequential([keras.Input((16, 16, 3)), layers.Flatten()])


def build_nothing(image_shape, seed):
    return None


def build_unknown_input(image_shape, seed):
    return keras.Sequential([layers.Flatten()])


def build_badly(image_shape, seed):
    raise RuntimeError("no such thing")


def own(source, settings=DEFAULTS, seed=0) -> OwnBackbone:
    return OwnBackbone("mine", source, settings, SHAPE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), seed)


def read(name, weights="", seed=0, **settings):
    return read_source(ModelSettings(backbone=name, **settings), str(weights), SHAPE, seed)


def model_of(backbone: OwnBackbone, classifier="cosine") -> IncrementalModel:
    return IncrementalModel(Architecture("mine", 8, SHAPE, classifier, own=backbone), 0, 3, 0)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("name", ["build", "file", "weights", "application"])
def test_ways_to_name_a_model(name, tmp_path, images):
    expected = mixed()
    if name == "build":
        found, expected = read(f"{__name__}:build"), None
    elif name == "file":
        expected.save(tmp_path / "model.keras")
        found = read(str(tmp_path / "model.keras"))
    elif name == "weights":
        expected = build(SHAPE, 0)
        expected.save_weights(tmp_path / "some.weights.h5")
        found = read(f"{__name__}:build", tmp_path / "some.weights.h5")
    else:
        with pytest.raises(UserError, match=r"can't be built for images \[8, 8, 3\]: .* 32x32"):
            read("keras.applications:MobileNetV3Small")
        return
    backbone = own(found)
    if expected is not None:
        np.testing.assert_allclose(backbone.build()(images), expected(images), atol=1e-5)


def test_weights_nobody_chose_follow_from_the_seed():
    digests = [own(read(f"{__name__}:build", seed=seed)).digests for seed in (0, 0, 1)]
    assert digests[0] == digests[1]
    assert digests[0]["configuration"] == digests[2]["configuration"]
    assert digests[0]["weights"] != digests[2]["weights"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "build_two_outputs",
            r"outputs \[n, 192\], \[n, 8, 8, 3\]: expected one input .n, h, w, c.",
        ),
        ("build_maps", r"has inputs \[n, 8, 8, 3\] and outputs \[n, 6, 6, 4\]: expected"),
        ("build_other_size", r"eats images \[n, 16, 16, 3\], and the data has \[n, 8, 8, 3\]"),
        ("build_nothing", "is NoneType: expected a functional or Sequential"),
        (
            "build_unknown_input",
            "is Sequential: expected a functional or Sequential .* knows its in",
        ),
        ("build_badly", "failed .RuntimeError: no such thing."),
        ("SHAPE", r"is tuple: expected a function build\(image_shape, seed\)"),
        ("UserError", r"is type: expected a function build\(image_shape, seed\)"),
    ],
)
def test_what_is_no_backbone(name, message):
    with pytest.raises(UserError, match=message):
        own(read(f"{__name__}:{name}"))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("none.keras", {}, "--backbone=none.keras: there is no such file"),
        ("none.keras", {"weights": "w.h5"}, "holds its weights itself: leave it out"),
        (
            "none.keras",
            {"depth": 14},
            "--depth=14 with --backbone=none.keras, whose depth is its own",
        ),
        ("keras.applications:Mobile", {}, "keras.applications has .*MobileNetV3Small"),
        (f"{__name__}:build", {"weights": "w.bin"}, r"expected .* ending in .weights.h5, .h5"),
        (
            f"{__name__}:build",
            {"weights": "w.h5"},
            "--backbone_weights=w.h5: there is no such file",
        ),
    ],
)
def test_what_can_not_be_opened(name, more, message):
    with pytest.raises(UserError, match=message):
        read(name, **more)


def test_weights_of_another_model(tmp_path):
    plain(5).save_weights(tmp_path / "five.weights.h5")
    with pytest.raises(UserError, match="five.weights.h5 does not fit --backbone=.*:build"):
        read(f"{__name__}:build", tmp_path / "five.weights.h5")


def test_a_file_runs_no_code(tmp_path):
    model = keras.Sequential([keras.Input(SHAPE), layers.Lambda(lambda x: x), layers.Flatten()])
    model.save(tmp_path / "code.keras")
    with pytest.raises(
        UserError, match="can't be loaded in Keras' safe mode .*package.module:build"
    ):
        read(str(tmp_path / "code.keras"))
    (tmp_path / "torn.keras").write_bytes(b"PK")
    with pytest.raises(UserError, match="can't be loaded"):
        read(str(tmp_path / "torn.keras"))


def test_a_name_that_stands_for_nothing():
    with pytest.raises(UserError, match="--backbone=resnet_imgenet: known are resnet_cifar, resn"):
        opens_own(ModelSettings(backbone="resnet_imgenet", depth=18))


def test_names_that_are_files_or_applications_are_no_code():
    for name in ("keras.applications:MobileNetV3Small", "a.b/c:d.keras", f"{__name__}:build"):
        assert opens_own(ModelSettings(backbone=name))
    assert not opens_own(ModelSettings())
    with pytest.raises(UserError, match="--backbone_input=0..255 with --backbone=resnet_cifar"):
        opens_own(ModelSettings(backbone_input="0..255"))


@pytest.mark.parametrize(("eats", "low", "high"), [("0..255", 0, 255), ("-1..1", -1, 1)])
def test_what_it_eats(eats, low, high, images):
    source = keras.Sequential([keras.Input(SHAPE), layers.Flatten()])
    found = own(source, ModelSettings(backbone_input=eats)).build()(images)
    shares = images * np.array((0.2, 0.3, 0.4)) + np.array((0.5, 0.4, 0.3))
    expected = (low + (high - low) * shares).reshape(len(images), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_one_that_rescales_is_told_of(caplog):
    for eats in ("normalized", "-1..1", "0..255"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            own(mixed(), ModelSettings(backbone_input=eats))
        told = f"gets {eats} ones: --backbone_input=0..255 gives it pixels" in caplog.text
        assert told is (eats != "0..255")


class Noise(layers.Layer):
    def call(self, x):
        return x + keras.random.normal((4,))


def test_one_that_does_not_stay_equal_is_refused():
    source = keras.Sequential([keras.Input(SHAPE), layers.GlobalAveragePooling2D(),
                               layers.Dense(4), Noise()])  # fmt: skip
    with pytest.raises(UserError, match=r"its outputs differ by \d"):
        own(source)


def test_weight_transfer_leaves_outputs_and_freezes_kernels(images):
    model = model_of(own(mixed()))
    before = model(images).features.numpy()
    model.set_transfer(True)
    np.testing.assert_array_equal(model(images).features, before)
    trained = {v.name for v in model.backbone.trainable_variables}
    assert trained == {"transfer_scale", "transfer_shift", "bias", "gamma", "beta"}
    words = model.transfer_in_words()
    kernels = 108 + 54 // 3 * 2 + 16 + 36  # conv2d, grouped (1 x 3, 2 in, 6 out), mixer, depthwise
    assert re.match(rf"weight transfer freezes {kernels + 30} numbers in the kernels of 5", words)


def test_scopes_of_the_inner_loop():
    model = model_of(own(mixed()))
    scopes = {
        scope: {v.path for v in model.scope_variables(scope)} for scope in ("all", "transfer")
    }
    assert not any("transfer_" in path for path in scopes["all"])
    assert not any(path.startswith("dense_1/") for path in scopes["all"] | scopes["transfer"])
    assert {path for path in scopes["transfer"] if path.startswith("mixer/")} == {
        *("mixer/transfer_scale", "mixer/bias"),
    }
    assert "mixer/kernel" in scopes["all"]
    model.set_transfer(True)
    assert "mixer/transfer_scale" in {v.path for v in model.scope_variables("all")}


def test_states_and_copies(images):
    backbone = own(mixed())
    model, other = model_of(backbone), model_of(backbone)
    for variable in model.variables:
        variable.assign(variable.numpy() * 2)
    other.set_state(model.state())
    np.testing.assert_array_equal(other(images).logits, model(images).logits)
    copy = model.frozen_copy()
    np.testing.assert_array_equal(copy(images).logits, model(images).logits)
