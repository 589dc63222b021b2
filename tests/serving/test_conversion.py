"""Exports in the formats of other runtimes, converted as docs/serving.md says."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.serving_support import learn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    learned = learn(image_shape=(8, 8, 1), backbone="resnet_cifar")
    return learned, learned.export(tmp_path_factory.mktemp("run") / "net", 1)


def check(answer, learned, images):
    expected = learned.predict(images)
    logits = expected.logits.numpy()
    np.testing.assert_allclose(answer["logits"], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(answer["probabilities"], tf.nn.softmax(logits), atol=1e-4)
    ids = np.array(learned.classes.original_ids)
    np.testing.assert_array_equal(answer["class_id"], ids[logits.argmax(axis=1)])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_litert(exported, batch_size):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    learned, path = exported
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=["scores"])
    runner = interpreter.Interpreter(model_content=converter.convert()).get_signature_runner()
    images = learned.images[:batch_size]
    check(runner(images=images), learned, images)


@pytest.mark.exhaustive
def test_onnx(exported, tmp_path):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    learned, path = exported
    file = tmp_path / "scores.onnx"
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", path, "--output", file]
    options = ["--tag", "serve", "--signature_def", "scores"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    for batch_size in (1, 3):
        images = learned.images[:batch_size]
        answer = dict(zip(names, session.run(names, {"images": images}), strict=True))
        check(answer, learned, images)
