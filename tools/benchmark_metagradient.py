r"""Time and peak memory of one outer step of exemplar learning, beside PyTorch's plain unroll.

    python -m tools.benchmark_metagradient --steps=1,5,10,50 --pytorch_python=/path/to/python \
        --output=metagradient.json

Every measurement runs in a process of its own, so that its peak resident size is that case's. The
process first takes one outer step with T = 1, which traces all graphs, and is then timed over one
outer step with T inner steps. Rounds go through all cases in turn (A, B, A, B), so that a change in
the machine's load meets every case alike. The table gives medians of time and maxima of memory over
the rounds; `over import` leaves out what Python, the framework and the model take before the first
step.

PyTorch runs in an environment of its own: name a Python that has it by --pytorch_python. Measure on
a quiet machine: PyTorch's threads wait for each other by spinning, so that with two threads and
other work beside it, it takes several times as long, and TensorFlow does not. Where the machine
cannot be quiet, --threads=1 compares fairly.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import itertools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

from absl import app, flags

from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, refuse_arguments
from mnemonics_tf.run.files import check_output, write_json
from mnemonics_tf.run.hardware import describe_hardware, describe_packages

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTORCH_PROGRAM = pathlib.Path(__file__).with_name("benchmark_metagradient_pytorch.py")
LEARNING_RATE = 0.01
#: plain unrolls by PyTorch, with its own batch normalisation and with a folded one
PYTORCH = ("pytorch", "pytorch_folded")
#: estimators that keep the activations of all T steps
UNROLLING = ("unroll", *PYTORCH)

_STEPS = flags.DEFINE_list("steps", ["1", "5", "10", "50"], "Numbers T of inner steps.")
_ESTIMATORS = flags.DEFINE_list("estimators", ["sweep"], "Estimators to measure.")
_SCOPES = flags.DEFINE_list("scopes", ["all"], "Scopes: all, transfer, classifier.")
_EXEMPLARS = flags.DEFINE_integer("exemplars", 200, "Exemplars; each inner step sees all.", 1)
_OUTER_BATCH = flags.DEFINE_integer("outer_batch", 200, "Images of the outer loss.", 1)
_DEPTH = flags.DEFINE_integer("depth", 32, "Depth of the ResNet, 6 n + 2.", 8)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Height and width of the images.", 1)
_CLASSES = flags.DEFINE_integer("classes", 50, "Classes of the classifier.", 2)
_THREADS = flags.DEFINE_integer(
    "threads", 0, "Threads an operation may use; 0 leaves the choice to the frameworks.", 0
)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "How often every case is measured.", 1)
_TRUNCATED_STEPS = flags.DEFINE_integer("truncated_steps", 5, "Steps `truncated` goes back.", 1)
_MAX_UNROLL_STEPS = flags.DEFINE_integer(
    "max_unroll_steps", 10, "Largest T for plain unrolls (0.5 to 1.1 GB a step by default).", 1
)
_PYTORCH_PYTHON = flags.DEFINE_string("pytorch_python", None, "A Python that has PyTorch.")
_JIT_COMPILE = flags.DEFINE_boolean("jit_compile", False, "Compile ours with XLA.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_CASE = flags.DEFINE_string("case", None, "Measure this one case (JSON) here; used internally.")


def list_cases() -> list[dict]:
    """Returns every case that the flags ask for, and says which are left out and why."""
    estimators = list(_ESTIMATORS.value)
    if has_pytorch(_PYTORCH_PYTHON.value):
        estimators.extend(PYTORCH)
    cases = []
    for scope, steps, estimator in itertools.product(
        _SCOPES.value, map(int, _STEPS.value), estimators
    ):
        if estimator in UNROLLING and scope != "classifier" and steps > _MAX_UNROLL_STEPS.value:
            print(f"Left out: {estimator}, {scope}, T = {steps}: over --max_unroll_steps.")
            continue
        cases.append(
            {
                "estimator": estimator,
                "scope": scope,
                "steps": steps,
                "exemplars": _EXEMPLARS.value,
                "outer_batch": _OUTER_BATCH.value,
                "depth": _DEPTH.value,
                "image_size": _IMAGE_SIZE.value,
                "classes": _CLASSES.value,
                "truncated_steps": _TRUNCATED_STEPS.value,
                "threads": _THREADS.value,
                "learning_rate": LEARNING_RATE,
                "jit_compile": _JIT_COMPILE.value,
            }
        )
    return cases


def has_pytorch(python: str | None) -> bool:
    """Tells whether `python` can import PyTorch, and prints the reason if not."""
    if python is None:
        print("Left out: PyTorch, because --pytorch_python names no Python that has it.")
        return False
    try:
        subprocess.run([python, "-c", "import torch"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Left out: PyTorch, because {python} cannot import torch ({error}).")
        return False
    return True


def run_case(case: dict) -> dict:
    """Measures a case in a process of its own."""
    if case["estimator"] in PYTORCH:
        command = [_PYTORCH_PYTHON.value, str(PYTORCH_PROGRAM), json.dumps(case)]
    else:
        module = "tools.benchmark_metagradient"
        command = [sys.executable, "-m", module, f"--case={json.dumps(case)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        # A killed process (out of memory) is a result too; the others go on.
        print(done.stderr[-2000:], file=sys.stderr)
        return {"failed": done.returncode}
    return json.loads(done.stdout.splitlines()[-1])


def measure_here(case: dict) -> dict:
    """Measures one outer step of an estimator of ours in this process."""
    import tensorflow as tf

    if case["threads"]:
        tf.config.threading.set_intra_op_parallelism_threads(case["threads"])
        tf.config.threading.set_inter_op_parallelism_threads(case["threads"])
    gpus = tf.config.list_logical_devices("GPU")

    def peak_megabytes():
        if gpus:
            return tf.config.experimental.get_memory_info(gpus[0].name)["peak"] / 2**20
        return peak_resident_megabytes()

    estimate = build_outer_step(case)
    imported = peak_megabytes()
    started = time.perf_counter()
    estimate(1)
    first = time.perf_counter() - started
    warm = peak_megabytes()
    wall, cpu = time.perf_counter(), time.process_time()
    estimate(case["steps"])
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "first_step_seconds": first,
        "imported_megabytes": imported,
        "warm_megabytes": warm,
        "peak_megabytes": peak_megabytes(),
        "version": f"tensorflow {tf.__version__}",
        "gpu": gpu_name(tf) if gpus else None,
    }


def build_outer_step(case: dict):
    """Returns a function that takes one outer step with the given number of inner steps."""
    import numpy as np
    import tensorflow as tf

    from mnemonics_tf import bilevel
    from mnemonics_tf.bilevel.problem import BilevelProblem
    from mnemonics_tf.models.architecture import Architecture
    from mnemonics_tf.models.incremental import IncrementalModel

    image_shape = (case["image_size"], case["image_size"], 3)
    architecture = Architecture("resnet_cifar", case["depth"], image_shape, "cosine")
    model = IncrementalModel(architecture, num_old=0, num_new=case["classes"], seed=0)
    if case["scope"] == "transfer":
        model.enable_transfer()
    variables = model.scope_variables(case["scope"])
    on_features = case["scope"] == "classifier"

    def loss(parameters, inputs, labels):
        def logits():
            return model.logits(inputs) if on_features else model(inputs).logits

        values = model.functional_call(variables, parameters, logits)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, values))

    problem = BilevelProblem(
        inner_loss=lambda parameters, images, labels, _: loss(parameters, images, labels),
        outer_loss=lambda parameters, outer_input: loss(parameters, *outer_input),
        learning_rate=case["learning_rate"],
    )
    estimator = bilevel.create(
        case["estimator"], problem, case["truncated_steps"], case["jit_compile"]
    )
    if on_features:
        encode = tf.function(model.backbone)
        estimator = bilevel.OnFeatures(estimator, model.backbone)

    random = np.random.default_rng(0)
    exemplars = random.normal(size=(case["exemplars"], *image_shape)).astype(np.float32)
    labels = random.integers(case["classes"], size=case["exemplars"])
    outer_images = random.normal(size=(case["outer_batch"], *image_shape)).astype(np.float32)
    outer_labels = random.integers(case["classes"], size=case["outer_batch"])

    def estimate(steps):
        batches = np.tile(np.arange(case["exemplars"], dtype=np.int32), (steps, 1))
        outer_inputs = encode(outer_images) if on_features else outer_images
        result = estimator.estimate(
            [variable.value for variable in variables],
            exemplars,
            labels,
            batches,
            outer_input=(outer_inputs, outer_labels),
        )
        return result.exemplar_gradient.numpy()

    return estimate


def gpu_name(tf) -> str:
    """Returns what the first GPU calls itself."""
    gpu = tf.config.list_physical_devices("GPU")[0]
    return tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")


def peak_resident_megabytes() -> float:
    """Returns the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def summarize(case: dict, measurements: list[dict]) -> dict:
    """Joins the rounds of one case: medians of time, maxima of memory."""
    good = [measurement for measurement in measurements if "failed" not in measurement]
    if not good:
        return {**case, "failed": measurements[-1]["failed"]}
    return {
        **case,
        "seconds": statistics.median(m["seconds"] for m in good),
        "cpu_seconds": statistics.median(m["cpu_seconds"] for m in good),
        "peak_megabytes": max(m["peak_megabytes"] for m in good),
        "over_import_megabytes": max(m["peak_megabytes"] - m["imported_megabytes"] for m in good),
        "rounds": measurements,
    }


def print_table(summaries: list[dict]) -> None:
    """Prints one line a case, with its ratios to PyTorch at the same scope and T."""
    print(
        "| scope | T | estimator | s | CPU s | peak MB | over import MB | "
        + " | ".join(f"speed-up over {name}, memory share" for name in PYTORCH)
        + " |"
    )
    print("|" + " --- |" * 9)
    for summary in summaries:
        name = f"| {summary['scope']} | {summary['steps']} | {summary['estimator']} |"
        if "failed" in summary:
            print(f"{name} failed with exit status {summary['failed']} | | | | | |")
            continue
        print(
            f"{name} {summary['seconds']:.2f} | {summary['cpu_seconds']:.2f} | "
            f"{summary['peak_megabytes']:.0f} | {summary['over_import_megabytes']:.0f} | "
            + " | ".join(ratios(summary, pytorch, summaries) for pytorch in PYTORCH)
            + " |"
        )


def ratios(summary: dict, pytorch: str, summaries: list[dict]) -> str:
    """Returns speed-up and share of memory against a PyTorch variant, or - where it was not run."""
    key = (pytorch, summary["scope"], summary["steps"])
    for other in summaries:
        if (other["estimator"], other["scope"], other["steps"]) == key and "failed" not in other:
            speed_up = other["seconds"] / summary["seconds"]
            return f"{speed_up:.2f}x, {summary['peak_megabytes'] / other['peak_megabytes']:.2f}"
    return "-"


@program()
def main(arguments: list[str]) -> int:
    """Measures every case in every round, prints the table and writes the file."""
    refuse_arguments(arguments)
    if _CASE.value:
        print(json.dumps(measure_here(json.loads(_CASE.value))))
        return 0
    if _OUTPUT.value:
        check_output("--output", user_path(_OUTPUT.value))
    cases = list_cases()
    measurements = [[] for _ in cases]
    for round_index in range(_ROUNDS.value):
        for case, of_case in zip(cases, measurements, strict=True):
            of_case.append(run_case(case))
            print(
                f"round {round_index + 1}: {case['scope']}, T = {case['steps']}, "
                f"{case['estimator']}: {of_case[-1].get('seconds', 'failed')} s",
                file=sys.stderr,
            )
    summaries = [summarize(*pair) for pair in zip(cases, measurements, strict=True)]
    print_table(summaries)
    if _OUTPUT.value:
        result = {
            "hardware": describe_hardware() | {"load_average_at_end": list(os.getloadavg())},
            "packages": describe_packages(),
            "cases": summaries,
        }
        write_json(user_path(_OUTPUT.value), result)
    return 0


if __name__ == "__main__":
    app.run(main)
