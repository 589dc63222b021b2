"""results.json, made from the records of the phases that are done, and TensorBoard's table."""

from collections.abc import Sequence
from typing import Any

from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.methods import METHODS
from mnemonics_tf.monitoring.summaries import Summaries, final_metrics
from mnemonics_tf.phases.backbone import digests_of_files
from mnemonics_tf.registry import find, is_own
from mnemonics_tf.run import hardware, results
from mnemonics_tf.run.data_facts import DIGESTS, noted_digests
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_json
from mnemonics_tf.run.history import History
from mnemonics_tf.run.resume import read_record
from mnemonics_tf.settings import Settings


def write_results(
    directory: RunDirectory,
    settings: Settings,
    protocol: ClassIncrementalProtocol,
    phases: Sequence[Phase],
    class_names: Sequence[str],
    replicas: int,
    summaries: Summaries,
) -> dict[str, Any]:
    """Writes results.json; returns what it holds.

    Args:
        directory: of the run.
        settings: of the run; those of a phase that was learned afterwards are in its record.
        protocol: of all phases that there are to be.
        phases: that are done.
        class_names: in class order.
        replicas: on how many the phases ran.
        summaries: for TensorBoard.
    """
    records = [read_record(directory, phase) for phase in phases]
    written = results.contents_written(directory.results)
    # What runs of earlier versions do not tell is that they trained it themselves.
    phase0 = records[0].get("stages", {}).get("phase0", {})
    own_seed, own_precision = settings.protocol.seed, settings.training.mixed_precision
    contents: dict[str, Any] = {
        "summary": results.summarize(records),
        "prediction_head": _prediction_head(settings.training.method, written),
        "protocol": results.protocol_fingerprint(settings, protocol),
        "phase0_seed": phase0.get("seed", own_seed),
        "phase0_mixed_precision": phase0.get("mixed_precision", own_precision),
        "class_order": list(protocol.order),
        "class_names": list(class_names),
        DIGESTS: _noted_digests(directory, records),
        "backbone_digests": digests_of_files(directory, settings.model.backbone),
        "settings": settings.results_settings(),
        "phases": records,
        "packages": hardware.describe_packages(),
        "hardware": {**hardware.describe_hardware(), "replicas": replicas},
    }
    if written.get("phases") != records:
        told, root = contents["settings"], directory.root.resolve()
        data = {**told["data"], "id": results.data_id(contents)}
        summaries.hyperparameters(
            {**told, "data": data},
            final_metrics(contents["summary"]),
            trial=f"{root.name} {results.hash_of(str(root))[:6]}",
        )
    write_json(directory.results, contents)
    return contents


def write_results_of(history: History, summaries: Summaries, replicas: int) -> dict[str, Any]:
    """Writes results.json of all that a finished run has learned, without its data.

    Args:
        history: of the run.
        summaries: for TensorBoard.
        replicas: on how many the phases ran.
    """
    protocol = history.protocol()
    return write_results(
        history.directory,
        history.settings,
        protocol,
        protocol.phases,
        history.known,
        replicas,
        summaries,
    )


def _prediction_head(method: str, written: dict[str, Any]) -> str:
    """Returns the head that a method is read by.

    Code of a user's own is not asked for what is written: further phases may have another method.
    """
    if is_own(method) and written.get("prediction_head") in HEADS:
        return written["prediction_head"]
    return find(METHODS, method, "method").prediction_head


def _noted_digests(
    directory: RunDirectory, records: Sequence[dict[str, Any]]
) -> dict[str, str] | None:
    """Returns those that all phases were learned from; of a run that noted none nobody can tell."""
    digests = noted_digests(directory)
    if digests is None:
        return None
    further = {
        f"{part} of phase {record['phase']}": digest
        for record in records
        for part, digest in record.get("learned", {}).get(DIGESTS, {}).items()
    }
    return {**digests, **further}
