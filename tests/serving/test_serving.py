"""Tests of the ways into an exported model that none of this project's code takes part in."""

import concurrent.futures
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.serving_support import ServedModel, learn

needs_serving_api = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_serving") is None, reason="needs tensorflow-serving-api"
)


@pytest.fixture(scope="module")
def learned():
    return learn(backbone="resnet_cifar")


@pytest.fixture(scope="module")
def exported(learned, tmp_path_factory):
    return learned.export(tmp_path_factory.mktemp("run") / "export" / "net", 1)


def plain_environment():
    """Without the paths on which this project's code could be found."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.mark.slow
def test_saved_model_cli(learned, exported, tmp_path):
    images = learned.images[:3]
    np.save(tmp_path / "images.npy", images)
    arguments = ["--signature_def", "serving_default", "--inputs", "images=images.npy"]
    subprocess.run(
        [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "run"]
        + ["--dir", exported, "--tag_set", "serve", "--outdir", "answer", *arguments],
        check=True,
        cwd=tmp_path,
        env=plain_environment(),
        capture_output=True,
    )
    logits = np.load(tmp_path / "answer" / "logits.npy")
    np.testing.assert_allclose(logits, learned.predict(images).logits, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def c_client(tmp_path_factory):
    """Builds the client in C against the library that the TensorFlow package brings."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    program = tmp_path_factory.mktemp("c") / "serving_client"
    libraries = pathlib.Path(tf.sysconfig.get_lib())
    names = [path.name for path in libraries.glob("libtensorflow*.so*")]
    result = subprocess.run(
        ["gcc", "-O1", "-o", program, pathlib.Path(__file__).with_name("serving_client.c")]
        + [f"-I{tf.sysconfig.get_include()}", f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
        + [f"-l:{name}" for name in names],
        capture_output=True,
        text=True,
    )
    if "undefined reference" in result.stderr or "cannot find" in result.stderr:
        pytest.skip(f"the installed TensorFlow has no C library to link with: {result.stderr}")
    assert result.returncode == 0, result.stderr
    return program


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.slow
def test_c_library(learned, exported, c_client, batch_size):
    images = learned.images[:batch_size]
    served = ServedModel(exported)
    signature = served.signatures["serving_default"]
    served.close()
    output_operation, output_index = signature.outputs["logits"].name.split(":")
    input_operation, _ = signature.inputs["images"].name.split(":")
    result = subprocess.run(
        [c_client, exported, input_operation, output_operation, output_index]
        + [str(dimension) for dimension in images.shape],
        input=images.tobytes(),
        env=plain_environment(),
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr.decode()
    logits = np.frombuffer(result.stdout, np.float32).reshape(batch_size, -1)
    np.testing.assert_allclose(logits, learned.predict(images).logits, rtol=1e-5, atol=1e-5)


def warmup_requests(path):
    """Yields the requests that an export brings along, as the server reads them."""
    from tensorflow_serving.apis import prediction_log_pb2

    file = path / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(file)):
        yield prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request


def ask(address, request):
    """Sends one request to TensorFlow Serving's PredictionService; returns the outputs by name."""
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = service.Predict(request, timeout=60)
    return {key: tf.make_ndarray(value) for key, value in response.outputs.items()}


@pytest.fixture
def loopback_server(exported):
    """Serves the export on loopback through TensorFlow Serving's own protocol."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    served = ServedModel(exported)

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802 - the protocol's name
            inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            response = predict_pb2.PredictResponse(model_spec=request.model_spec)
            for key, value in served(request.model_spec.signature_name, inputs).items():
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            return response

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()
    served.close()


@needs_serving_api
@pytest.mark.slow
def test_prediction_service(learned, exported, loopback_server):
    expected = learned.predict(learned.images[:2])
    labels = expected.logits.numpy().argmax(axis=1)
    asked = set()
    for request in warmup_requests(exported):
        answer = ask(loopback_server, request)
        asked.add(request.model_spec.signature_name)
        if "logits" in answer:
            np.testing.assert_allclose(answer["logits"], expected.logits, rtol=1e-5, atol=1e-5)
            names = [learned.classes.names[label] for label in labels]
            if request.model_spec.signature_name != "scores":  # numbers alone
                assert [name.decode() for name in answer["class_name"]] == names
        if "features" in answer:
            np.testing.assert_allclose(answer["features"], expected.features, rtol=1e-5, atol=1e-5)
    assert asked == {"serving_default", "serving_bytes", "scores", "features", "nme"}


@needs_serving_api
def test_the_guides_client(learned, loopback_server, tmp_path, monkeypatch, capsys):
    guide = pathlib.Path(__file__).resolve().parents[2] / "docs" / "serving.md"
    programs = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
    (program,) = (text for text in programs if "localhost:8500" in text)
    images = learned.images[:2]
    np.save(tmp_path / "images.npy", images)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(program.replace("localhost:8500", loopback_server), names)
    labels = learned.predict(images).logits.numpy().argmax(axis=1)
    expected = [learned.classes.original_ids[label] for label in labels]
    assert names["outputs"]["class_id"].tolist() == expected
    assert str(names["outputs"]["class_id"]) in capsys.readouterr().out


@needs_serving_api
@pytest.mark.skipif(
    "MNEMONICS_MODEL_SERVER" not in os.environ,
    reason="opt-in: MNEMONICS_MODEL_SERVER=host:port of a tensorflow_model_server that serves all "
    "versions of the model in MNEMONICS_SERVED_MODEL=RUN/export/NAME",
)
def test_model_server():
    directory = pathlib.Path(os.environ["MNEMONICS_SERVED_MODEL"])
    versions = [path for path in directory.iterdir() if path.name.isdecimal()]
    assert versions
    for path in versions:
        served = ServedModel(path)
        for request in warmup_requests(path):
            inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            expected = served(request.model_spec.signature_name, inputs)
            request.model_spec.version.value = int(path.name)
            answer = ask(os.environ["MNEMONICS_MODEL_SERVER"], request)
            assert set(answer) == set(expected)
            for key, value in expected.items():
                if value.dtype == np.float32:
                    np.testing.assert_allclose(answer[key], value, rtol=1e-5, atol=1e-5)
                else:
                    assert answer[key].tolist() == value.tolist()
        served.close()
