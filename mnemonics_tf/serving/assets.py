"""What TensorFlow Serving wants beside a SavedModel: warm-up requests and its configuration."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from mnemonics_tf.run.files import write_text

#: where models.config expects the export folder on the serving host
MODELS_ROOT = "/models"
MODELS_CONFIG = "models.config"

_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_BYTES = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
_MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE

# What a warm-up request needs of tensorflow_serving/apis/{prediction_log,predict,model}.proto:
# message -> field -> (number, type). The package that holds the originals is no dependency: a run
# needs no more of it than this. `inputs` is map<string, TensorProto>, which is written as a
# repeated message of key and value; and a message inside a message is written as its bytes are.
_MESSAGES = {
    "ModelSpec": {"name": (1, _STRING), "signature_name": (3, _STRING)},
    "InputsEntry": {"key": (1, _STRING), "value": (2, _BYTES)},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "InputsEntry")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}
_REPEATED = {("PredictRequest", "inputs")}


def _prediction_log_class() -> type:
    """Returns a message class that is written as tensorflow.serving.PredictionLog is."""
    package = "mnemonics_tf.serving"
    file = descriptor_pb2.FileDescriptorProto(
        name="mnemonics_tf/prediction_log.proto", package=package, syntax="proto3"
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number)
            repeated = (message_name, field_name) in _REPEATED
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = _MESSAGE, f".{package}.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()  # not the default pool, which is shared by the process
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.PredictionLog"))


def write_warmup_requests(
    path: pathlib.Path, model_name: str, requests: Sequence[tuple[str, Mapping[str, tf.Tensor]]]
) -> None:
    """Writes requests that a server runs before it serves, so that no client waits for first runs.

    Source: TensorFlow Serving's guide, "SavedModel Warmup".

    Args:
        path: of the TFRecord of PredictionLog, `assets.extra/tf_serving_warmup_requests`.
        model_name: under which the model is served.
        requests: pairs of a signature's name and its inputs by name.
    """
    prediction_log = _prediction_log_class()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature_name, inputs in requests:
            log = prediction_log()
            request = log.predict_log.request
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature_name
            for key, tensor in inputs.items():
                value = tf.make_tensor_proto(tensor).SerializeToString()
                request.inputs.add(key=key, value=value)
            writer.write(log.SerializeToString())


def models_config(model_names: Sequence[str]) -> str:
    """Returns a ModelServerConfig (text format) that serves every version of every model.

    Versions carry no labels: a server refuses to start with labels of versions that it has not yet
    loaded, unless told otherwise.
    """
    models = (
        f"""  config {{
    name: {json.dumps(name)}
    base_path: {json.dumps(f"{MODELS_ROOT}/{name}")}
    model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
  }}
"""
        for name in model_names
    )
    return f"model_config_list {{\n{''.join(models)}}}\n"


def write_models_config(export_root: pathlib.Path) -> None:
    """Writes `models.config` for all models that lie in `export_root` with at least one version.

    A file that says so already stays as it is, and so does one where no version lies.

    To serve them, mount `export_root` as `/models` and start
    `tensorflow_model_server --model_config_file=/models/models.config`.
    """
    names = sorted({v.parent.name for v in export_root.glob("*/*") if v.name.isdecimal()})
    path, text = export_root / MODELS_CONFIG, models_config(names)
    if names and not (path.is_file() and path.read_bytes() == text.encode()):
        write_text(path, text)
