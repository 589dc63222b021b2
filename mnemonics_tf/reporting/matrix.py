"""The accuracy matrices of all runs as a CSV, for whoever makes figures of their own."""

import csv
import io
from collections.abc import Sequence

from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.reporting.groups import Group
from mnemonics_tf.reporting.runs import seeds_in_words

#: what spreadsheets take for the beginning of a formula
_OF_FORMULAS = ("=", "+", "-", "@", "\t", "\r")

#: the first line of the file
TITLE = "run,seed,head,phase,classes_seen,class_group,accuracy"


def as_csv(groups: Sequence[Group]) -> str:
    """Returns a line for each run, head, phase and group of classes; accuracies in [0, 1]."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    stream.write(f"{TITLE}\n")
    for group in groups:
        name = _no_formula(group.name)
        for run in group.runs:
            seeds = seeds_in_words(run.seeds)
            for record in run.phases:
                for head in HEADS:
                    for index, accuracy in enumerate(record["heads"][head]["group_accuracies"]):
                        place = (record["phase"], record["num_seen"], index)
                        writer.writerow((name, seeds, head, *place, accuracy))
    return stream.getvalue()


def _no_formula(name: str) -> str:
    """Returns a name as spreadsheets take it for text, whoever chose it."""
    return f"'{name}" if name.startswith(_OF_FORMULAS) else name
