"""Tests of exported models: what they answer, and what lies beside them."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.models.incremental import Outputs
from tests.serving.serving_support import ServedModel, learn, nearest_means

needs_serving_api = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_serving") is None, reason="needs tensorflow-serving-api"
)

LEARNED = {
    "base phase": {"num_old": 0, "num_new": 4, "classifier": "linear", "transfer": False},
    "before weight transfer": {"transfer": False},
    "weight transfer": {},
    "linear": {"classifier": "linear"},
    "digits": {"image_shape": (8, 8, 1)},
}


@pytest.fixture(scope="module", params=LEARNED)
def exported(request, tmp_path_factory):
    learned = learn(**LEARNED[request.param])
    path = learned.export(tmp_path_factory.mktemp("run") / "export" / "net", 1)
    served = ServedModel(path)
    yield learned, served, path
    served.close()


@pytest.fixture(scope="module")
def learned():
    return learn()


def check_classes(answer, labels, classes):
    assert answer["class_id"].tolist() == [classes.original_ids[label] for label in labels]
    names = [name.decode() for name in answer["class_name"]]
    assert names == [classes.names[label] for label in labels]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_signatures_answer_as_the_model_does(exported, batch_size):
    learned, served, _ = exported
    images = learned.images[:batch_size]
    expected = learned.predict(images)
    logits, features = expected.logits.numpy(), expected.features.numpy()
    encoded = [tf.io.encode_png(image).numpy() for image in images]

    by_pixels = served("serving_default", {"images": images})
    by_bytes = served("serving_bytes", {"image_bytes": encoded})
    for answer in (by_pixels, by_bytes):
        kinds = ("class_id", "class_name")
        assert set(answer) == {
            *("logits", "probabilities", "top_probability"),
            *kinds,
            *(f"top_{kind}" for kind in kinds),
        }
        np.testing.assert_allclose(answer["logits"], logits, rtol=1e-5, atol=1e-5)
        probabilities = tf.nn.softmax(logits).numpy()
        np.testing.assert_allclose(answer["probabilities"], probabilities, rtol=1e-5, atol=1e-5)
        check_classes(answer, logits.argmax(axis=1), learned.classes)
        ranks = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        ranked = np.take_along_axis(probabilities, ranks, axis=1)
        np.testing.assert_allclose(answer["top_probability"], ranked, rtol=1e-5, atol=1e-5)
        ids = np.array(learned.classes.original_ids)
        np.testing.assert_array_equal(answer["top_class_id"], ids[ranks])
        names = np.array(learned.classes.names, object)
        np.testing.assert_array_equal(
            np.char.decode(answer["top_class_name"].astype(bytes)), names[ranks]
        )

    numbers = served("scores", {"images": images})
    assert set(numbers) == {"logits", "probabilities", "class_id"}
    for name, value in numbers.items():
        np.testing.assert_array_equal(value, by_pixels[name])

    answer = served("features", {"images": images})
    assert set(answer) == {"features"}
    np.testing.assert_allclose(answer["features"], features, rtol=1e-5, atol=1e-5)

    answer = served("nme", {"images": images})
    assert set(answer) == {"similarity", "class_id", "class_name"}
    check_classes(answer, nearest_means(features, learned.class_means), learned.classes)
    cosines = features @ learned.class_means.T / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(answer["similarity"], cosines, rtol=1e-5, atol=1e-5)


def test_nothing_but_plain_convolutions_and_the_heads_is_stored(exported):
    learned, _, path = exported
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    del shapes["_CHECKPOINTABLE_OBJECT_GRAPH"]
    convolutions = len(list(learned.model.transfer_layers()))
    assert len([shape for shape in shapes.values() if len(shape) == 4]) == convolutions
    class_means = 1
    heads = len(learned.model.classifier.variables) + class_means
    assert len(shapes) == 2 * convolutions + heads  # a kernel and a bias each


def test_no_image_gives_no_answer(exported):
    learned, served, _ = exported
    num_classes, none = learned.model.num_classes, learned.images[:0]
    for name in ("serving_default", "scores", "features", "nme"):
        for answer in served(name, {"images": none}).values():
            assert len(answer) == 0
    answer = served("serving_bytes", {"image_bytes": []})
    assert answer["logits"].shape == (0, num_classes)
    assert answer["class_name"].shape == (0,)


def test_classes_are_ranked_where_their_probabilities_are_all_zero(tmp_path):
    learned = learn(image_shape=(8, 8, 1))
    learned.model.classifier.scale.assign(1e5)
    served = ServedModel(learned.export(tmp_path / "net", 1))
    answer = served("serving_default", {"images": learned.images[:8]})
    assert np.all(answer["top_probability"][:, 1] == 0)
    ranks = np.argsort(-answer["logits"], axis=1, kind="stable")
    ids = np.array(learned.classes.original_ids)
    np.testing.assert_array_equal(answer["top_class_id"], ids[ranks])
    served.close()


def test_jpegs_are_opaque_to_a_model_of_four_channels(tmp_path):
    learned = learn(image_shape=(16, 16, 4))
    served = ServedModel(learned.export(tmp_path / "net", 1))
    jpeg = tf.io.encode_jpeg(learned.images[0][..., :3]).numpy()
    rgb = tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE").numpy()
    rgba = np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1)
    answer = served("serving_bytes", {"image_bytes": [jpeg]})
    np.testing.assert_allclose(
        answer["logits"], learned.predict(rgba[None]).logits.numpy(), rtol=1e-5, atol=1e-5
    )
    served.close()


def test_no_file_is_asked_for_where_images_have_two_channels(tmp_path):
    with pytest.raises(tf.errors.InvalidArgumentError, match="got 2"):
        tf.io.decode_png(tf.io.encode_png(np.zeros((4, 4, 2), np.uint8)), channels=2)
    path = learn(image_shape=(8, 8, 2)).export(tmp_path / "net", 1)
    served = ServedModel(path)
    assert set(served.signatures) == {"serving_default", "scores", "features", "nme"}
    served.close()
    requests = (path / "assets.extra" / "tf_serving_warmup_requests").read_bytes()
    assert b"serving_default" in requests
    assert b"serving_bytes" not in requests


def test_a_line_break_in_a_class_name_shifts_no_label(tmp_path):
    learned = learn(num_old=0, num_new=2, transfer=False, image_shape=(8, 8, 1))
    names = ("Straße\nEnde\u2028", "b")
    classes = dataclasses.replace(learned.classes, names=names)
    path = learned.export(tmp_path / "net", 1, classes=classes)
    lines = (path / "assets.extra" / "labels.txt").read_text("utf-8").splitlines()
    assert lines == ["Straße\\nEnde\\u2028", "b"]


def test_what_a_method_adds_to_the_logits_is_exported(tmp_path):
    learned = learn(classifier="linear", image_shape=(8, 8, 1), corrects_logits=True)
    before = learned.predict(learned.images[:3]).logits.numpy()
    learned.model.correct_logits([3, 4], 2.0, 1.0)
    served = ServedModel(learned.export(tmp_path / "net", 1))
    answer = served("serving_default", {"images": learned.images[:3]})
    expected = before * [1, 1, 1, 2, 2] + [0, 0, 0, 1, 1]
    np.testing.assert_allclose(answer["logits"], expected, rtol=1e-5, atol=1e-5)
    served.close()


def test_model_is_left_as_it_was(tmp_path):
    learned = learn()
    learned.export(tmp_path / "net", 1)
    before = learned.predict(learned.images[:3]).logits.numpy()
    for layer in learned.model.transfer_layers():
        assert layer.plain_weights is None
        layer.transfer_scale.assign(layer.transfer_scale * 1.5)
    assert np.abs(learned.predict(learned.images[:3]).logits.numpy() - before).max() > 1e-3


def test_graph_traced_before_the_export_is_refused(learned, tmp_path, monkeypatch):
    """As a layer of a user's own backbone may run one."""
    run = type(learned.model).__call__

    @tf.function
    def compiled(images):
        outputs = run(learned.model, images)
        return outputs.features, outputs.logits

    compiled.get_concrete_function(tf.TensorSpec([None, 32, 32, 3]))
    monkeypatch.setattr(
        type(learned.model), "__call__", lambda model, images: Outputs(*compiled(images))
    )
    with pytest.raises(ValueError, match="traced before the export"):
        learned.export(tmp_path / "net", 1)


def test_classes_and_class_means_must_fit_the_model(learned, tmp_path):
    with pytest.raises(ValueError, match="5 logits, 4 original ids"):
        learned.export(tmp_path / "net", 1, classes=learn(2, 2).classes)
    with pytest.raises(ValueError, match="class_means"):
        learned.export(tmp_path / "net", 1, class_means=learned.class_means[:4])


# What lies beside the graph


def test_labels_and_metadata(exported):
    learned, _, path = exported
    extra = path / "assets.extra"
    assert (extra / "labels.txt").read_text("utf-8").splitlines() == list(learned.classes.names)
    metadata = json.loads((extra / "metadata.json").read_text("utf-8"))
    assert metadata["original_ids"] == list(learned.classes.original_ids)
    assert metadata["names"] == list(learned.classes.names)
    assert metadata["image_shape"] == list(learned.images.shape[1:])
    assert metadata["protocol"] == {"seed": 1993}
    assert metadata["accuracy"] == 0.5


@needs_serving_api
def test_warm_up_requests_run(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    learned, served, path = exported
    file = str(path / "assets.extra" / "tf_serving_warmup_requests")
    warmed = set()
    for record in tf.data.TFRecordDataset(file):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "net"
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        answer = served(request.model_spec.signature_name, inputs)
        assert all(len(value) == 2 for value in answer.values())
        warmed.add(request.model_spec.signature_name)
        if "images" in inputs:
            np.testing.assert_array_equal(inputs["images"], learned.images[:2])
    assert warmed == set(served.signatures)


@needs_serving_api
def test_models_config_serves_every_version_of_every_model(learned, tmp_path):
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    learned.export(tmp_path / "plain", 1)
    learned.export(tmp_path / 'a "quoted" name', 2)
    (tmp_path / "empty" / ".tmp-1").mkdir(parents=True)
    config = text_format.Parse(
        (tmp_path / "models.config").read_text("utf-8"), model_server_config_pb2.ModelServerConfig()
    )
    models = {model.name: model for model in config.model_config_list.config}
    assert set(models) == {"plain", 'a "quoted" name'}
    for name, model in models.items():
        assert model.base_path == f"/models/{name}"
        assert model.model_platform == "tensorflow"
        assert model.model_version_policy.WhichOneof("policy_choice") == "all"
