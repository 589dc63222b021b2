"""Tests of exported models: what they answer, what lies beside them, and how they are published."""

import dataclasses
import importlib.util
import json
import os
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.decoding import decode_plain
from mnemonics_tf.errors import UserError
from mnemonics_tf.models.incremental import Outputs
from mnemonics_tf.serving.export import export_folder
from tests.serving.serving_support import ServedModel, learn

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


def nearest_means(features, class_means):
    """The rule of nearest means by its definition: the smallest Euclidean distance."""
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.linalg.norm(features[:, None] - class_means[None], axis=2).argmin(axis=1)


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


def test_a_line_break_in_a_class_name_shifts_no_label(tmp_path):
    learned = learn(num_old=0, num_new=2, transfer=False, image_shape=(8, 8, 1))
    names = ("Straße\nEnde\u2028", "b")
    classes = dataclasses.replace(learned.classes, names=names)
    path = learned.export(tmp_path / "net", 1, classes=classes)
    lines = (path / "assets.extra" / "labels.txt").read_text("utf-8").splitlines()
    assert lines == ["Straße\\nEnde\\u2028", "b"]


def test_nme_is_left_out_without_class_means(learned, tmp_path):
    path = learned.export(tmp_path / "net", 1, class_means=None)
    served = ServedModel(path)
    assert set(served.signatures) == {"serving_default", "serving_bytes", "scores", "features"}
    served.close()


def test_what_a_method_adds_to_the_logits_is_exported(learned, tmp_path):
    def corrected(images):
        outputs = learned.model(images)
        return Outputs(outputs.features, outputs.logits * 2 + 1)

    served = ServedModel(learned.export(tmp_path / "net", 1, predict=corrected))
    answer = served("serving_default", {"images": learned.images[:3]})
    expected = learned.predict(learned.images[:3]).logits.numpy() * 2 + 1
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


def test_graph_traced_before_the_export_is_refused(learned, tmp_path):
    @tf.function
    def compiled(images):
        outputs = learned.model(images)
        return outputs.features, outputs.logits

    compiled.get_concrete_function(tf.TensorSpec([None, 32, 32, 3]))
    with pytest.raises(ValueError, match="traced before the export"):
        learned.export(tmp_path / "net", 1, predict=lambda images: Outputs(*compiled(images)))


def test_classes_and_class_means_must_fit_the_model(learned, tmp_path):
    with pytest.raises(ValueError, match="5 logits, 4 original ids"):
        learned.export(tmp_path / "net", 1, classes=learn(2, 2).classes)
    with pytest.raises(ValueError, match="class_means"):
        learned.export(tmp_path / "net", 1, class_means=learned.class_means[:4])


# Bytes of image files


def encode_jpeg(image):
    return tf.io.encode_jpeg(image, quality=90).numpy()


def test_jpeg_of_other_sizes_and_channels(learned, tmp_path):
    served = ServedModel(learned.export(tmp_path / "net", 1))
    random = np.random.default_rng(5)
    colour = random.integers(0, 256, (48, 70, 3), np.uint8)
    grey = random.integers(0, 256, (20, 20, 1), np.uint8)
    transparent = random.integers(0, 256, (32, 32, 4), np.uint8)
    files = [
        encode_jpeg(learned.images[0]),
        encode_jpeg(colour),
        encode_jpeg(grey),
        tf.io.encode_png(transparent).numpy(),
    ]
    decoded = [decode_plain(files[0], 3), decode_plain(files[1], 3)]
    decoded += [tf.repeat(decode_plain(files[2], 1), 3, axis=2), transparent[..., :3]]
    resized = [tf.image.resize(image, (32, 32), antialias=True) for image in decoded]
    images = np.stack([np.clip(np.round(image), 0, 255).astype(np.uint8) for image in resized])
    np.testing.assert_array_equal(images[0], decoded[0])  # the right size already: left as it is
    answer = served("serving_bytes", {"image_bytes": files})
    expected = learned.predict(images).logits
    np.testing.assert_allclose(answer["logits"], expected, rtol=1e-5, atol=1e-5)
    served.close()


def png_that_claims(width: int, height: int) -> bytes:
    """Returns a PNG file of a few bytes whose header names a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    rows = zlib.compress(bytes(1000))
    parts = chunk(b"IHDR", size + b"\x08\x02\0\0\0"), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_that_claims(width: int, height: int) -> bytes:
    """Returns a JPEG file of a few bytes whose frame header names a size."""
    contents = bytearray(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    at = contents.index(b"\xff\xc0") + 5
    contents[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(contents)


HOSTILE_IMAGES = {
    "100 megapixels, PNG": (png_that_claims(10_000, 10_000), "67108864 pixels.*10000 10000"),
    "100 megapixels, JPEG": (jpeg_that_claims(10_000, 10_000), "67108864 pixels.*10000 10000"),
    "a product beyond 32 bits": (png_that_claims(2**31 - 1, 2**31 - 1), "67108864 pixels"),
    "no pixels": (png_that_claims(0, 5), "67108864 pixels"),
    "a GIF, that may hold many": (b"GIF89a" + bytes(100), "expected a JPEG or PNG file"),
    "text": (b"no image", "expected a JPEG or PNG file"),
    "nothing": (b"", "expected a JPEG or PNG file"),
    "a PNG cut short": (png_that_claims(8, 8)[:40], "PNG"),
    "only the start of a PNG": (png_that_claims(8, 8)[:16], ""),
    "a JPEG cut short": (jpeg_that_claims(8, 8)[:30], "JPEG"),
}


def test_hostile_images_are_refused_before_they_are_decoded(learned, tmp_path):
    served = ServedModel(learned.export(tmp_path / "net", 1))
    good = tf.io.encode_png(learned.images[0]).numpy()
    for name, (contents, message) in HOSTILE_IMAGES.items():
        started = time.monotonic()
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?s){message}"):
            served("serving_bytes", {"image_bytes": [good, contents]})
        assert time.monotonic() - started < 10, name
    assert len(served("serving_bytes", {"image_bytes": [good]})["class_id"]) == 1
    served.close()


def test_evaluation_decides_how_images_are_fitted(learned, tmp_path):
    def centre_crop(image):
        return tf.image.resize_with_crop_or_pad(image, 32, 32)

    served = ServedModel(learned.export(tmp_path / "net", 1, fit_image=centre_crop))
    image = np.random.default_rng(6).integers(0, 256, (40, 40, 3), np.uint8)
    answer = served("serving_bytes", {"image_bytes": [tf.io.encode_png(image).numpy()]})
    expected = learned.predict(image[None, 4:36, 4:36]).logits
    np.testing.assert_allclose(answer["logits"], expected, rtol=1e-5, atol=1e-5)
    served.close()


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


# Publication


def versions(directory):
    return sorted(path.name for path in directory.iterdir() if path.name.isdecimal())


@pytest.mark.parametrize("where", ["saved_model.save", "warm-up", "os.replace"])
@pytest.mark.slow
def test_interrupted_export_leaves_no_version(learned, tmp_path, monkeypatch, where):
    class Killed(BaseException):
        pass

    def kill(*arguments, **keywords):
        raise Killed

    directory = tmp_path / "net"
    with monkeypatch.context() as patch:
        if where == "saved_model.save":
            patch.setattr("mnemonics_tf.serving.export.tf.saved_model.save", kill)
        elif where == "warm-up":
            patch.setattr("mnemonics_tf.serving.export.write_warmup_requests", kill)
        else:
            replace = os.replace

            def kill_at_publication(source, target):
                if os.path.isdir(source):
                    kill()
                replace(source, target)

            patch.setattr("os.replace", kill_at_publication)
        with pytest.raises(Killed):
            learned.export(directory, 2)
    assert versions(directory) == []
    assert not (tmp_path / "models.config").exists()
    assert [path.name for path in directory.iterdir()] == [".tmp-2"]

    learned.export(directory, 1)
    assert [path.name for path in directory.iterdir()] == ["1"]
    ServedModel(directory / "1").close()


def fingerprint(path):
    return {
        file.relative_to(path): (file.stat().st_mtime_ns, file.stat().st_size)
        for file in path.rglob("*")
    }


def test_complete_version_of_the_same_model_is_kept(learned, tmp_path):
    path = learned.export(tmp_path / "net", 1)
    before = fingerprint(path)
    (tmp_path / "models.config").unlink()  # the run was killed between the two
    assert learned.export(tmp_path / "net", 1) == path
    assert fingerprint(path) == before
    assert (tmp_path / "models.config").exists()


@pytest.mark.parametrize("other", ["classes", "weights", "class means", "architecture"])
@pytest.mark.slow
def test_version_of_another_model_is_never_overwritten(learned, tmp_path, other):
    directory = tmp_path / "net"
    if other == "classes":
        path = learn(seed=1).export(directory, 1, class_means=learned.class_means)
    elif other == "weights":
        path = learn(seed=1).export(directory, 1, classes=learned.classes)
    elif other == "class means":
        path = learned.export(directory, 1, class_means=-learned.class_means)
    else:
        path = learn(classifier="linear").export(directory, 1)
    before = fingerprint(path)
    with pytest.raises(UserError, match="never overwritten"):
        learned.export(directory, 1)
    assert fingerprint(path) == before


def test_exports_keep_the_name_they_have(tmp_path):
    root = tmp_path / "export"
    assert export_folder(root, "tfds:cats/small") == root / "tfds_cats_small"
    assert export_folder(root, "folder", "cats-2.0") == root / "cats-2.0"
    (root / "cats" / "1").mkdir(parents=True)
    assert export_folder(root, "folder") == root / "cats"
    assert export_folder(root, "folder", "cats") == root / "cats"
    with pytest.raises(UserError, match="exported as cats: leave the flag out, or rename"):
        export_folder(root, "folder", "dogs")


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a b", "-x", "ä"])
def test_what_no_server_can_be_asked_for_is_no_name(tmp_path, name):
    with pytest.raises(UserError, match="is no name that servers and paths agree on"):
        export_folder(tmp_path, "digits", name)
