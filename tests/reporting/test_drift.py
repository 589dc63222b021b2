"""Exemplar memories as a report reads them."""

import numpy as np

from mnemonics_tf.exemplars.codecs import CODECS
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.reporting.drift import memories_of
from mnemonics_tf.reporting.runs import load_runs
from tests.reporting.report_runs import contents, write_run


def test_memories_are_read_and_nothing_is_decoded(tmp_path, monkeypatch):
    directory = write_run(tmp_path, contents(exemplar__codec="webp_lossless"))
    for phase in (0, 1):
        plain = ExemplarMemory.load(directory.exemplars(phase))
        coded = ExemplarMemory(plain.images, plain.labels, codec="webp_lossless")
        coded.save(directory.exemplars(phase))

    def refuse(codec, code):
        raise AssertionError("decoded")

    monkeypatch.setattr(CODECS["webp_lossless"], "decode", refuse)
    memories = memories_of(load_runs([tmp_path])[0])
    assert [len(np.unique(memory.labels)) for memory in memories] == [5, 10]
