import dataclasses

import pytest

from mnemonics_tf.phases.asked_for import make_protocol
from mnemonics_tf.run import results
from mnemonics_tf.settings import ExemplarSettings, ProtocolSettings, Settings


def record(phase: int, num_seen: int, classifier: list[float], nme: list[float]) -> dict:
    """What phase.json holds, with groups of equal size."""
    heads = {
        head: {"accuracy": sum(groups) / len(groups), "group_accuracies": groups}
        for head, groups in (("classifier", classifier), ("nme", nme))
    }
    return {"phase": phase, "num_seen": num_seen, "heads": heads}


RECORDS = [
    record(0, 5, [0.9], [0.8]),
    record(1, 7, [0.5, 0.7], [0.7, 0.9]),
    record(2, 9, [0.3, 0.4, 0.8], [0.9, 0.5, 0.7]),
]


def test_summary_over_the_phases():
    summary = results.summarize(RECORDS)
    assert summary["classifier"]["phase_accuracies"] == pytest.approx([0.9, 0.6, 0.5])
    assert summary["classifier"]["accuracy_matrix"] == [[0.9], [0.5, 0.7], [0.3, 0.4, 0.8]]
    assert summary["classifier"]["average_accuracy"] == pytest.approx(2.0 / 3)
    assert summary["classifier"]["forgetting"] == pytest.approx(0.6)
    assert summary["nme"]["average_accuracy"] == pytest.approx((0.8 + 0.8 + 0.7) / 3)
    assert summary["nme"]["forgetting"] == pytest.approx(-0.1)
    assert summary["nme"]["mean_forgetting"] == pytest.approx((-0.1 + 0.4) / 2)
    assert summary["nme"]["backward_transfer"] == pytest.approx((0.1 - 0.4) / 2)
    assert summary["nme"]["last_accuracy"] == pytest.approx(0.7)
    assert summary["nme"]["old_accuracies"] == [None] * 3  # no confusion matrix tells


def test_the_table_shows_top_5_where_it_was_measured():
    records = [record(0, 25, [0.5], [0.25])]
    for head, value in (("classifier", 0.875), ("nme", 0.625)):
        records[0]["heads"][head]["top5_accuracy"] = value
    summary = results.summarize(records)
    assert summary["nme"]["top5_accuracies"] == [0.625]
    shown = {"phases": records, "summary": summary, "prediction_head": "nme"}
    assert ["last,", "top", "5", "87.50%", "62.50%"] in [
        line.split() for line in results.table(shown).splitlines()
    ]


def test_table_shows_every_phase_and_both_heads():
    text = results.table(
        {
            "phases": RECORDS,
            "summary": results.summarize(RECORDS),
            "prediction_head": "nme",
        }
    )
    *lines, note = text.splitlines()
    assert note.startswith("* the head")
    rows = [line.split() for line in lines]
    assert rows == [
        ["phase", "classes", "classifier", "nme*"],
        ["0", "5", "90.00%", "80.00%"],
        ["1", "7", "60.00%", "80.00%"],
        ["2", "9", "50.00%", "70.00%"],
        ["average", "66.67%", "76.67%"],
        ["forgetting", "F", "60.00%", "-10.00%"],
        ["mean", "forgetting", "45.00%", "15.00%"],
        ["BWT", "-45.00%", "-15.00%"],
    ]
    assert len({len(line) for line in lines}) == 1  # columns are aligned


def fingerprint(settings: Settings) -> dict:
    return results.protocol_fingerprint(settings, make_protocol(settings, 10))


def test_fingerprint_tells_protocols_apart_and_not_methods():
    base = Settings()
    hashes = {fingerprint(base)["hash"]}
    for group, changes in (
        (ProtocolSettings, {"seed": 1}),
        (ProtocolSettings, {"class_order_seed": 1}),
        (ProtocolSettings, {"base_classes": 6, "num_phases": 4}),
        (ProtocolSettings, {"num_phases": 1}),
        (ExemplarSettings, {"exemplars_per_class": 5}),
        (ExemplarSettings, {"exemplars_total": 200}),
        (ExemplarSettings, {"exemplar_bytes_per_class": 200}),
        (ExemplarSettings, {"exemplar_bytes_total": 200}),
    ):
        name = "protocol" if group is ProtocolSettings else "exemplar"
        hashes.add(fingerprint(dataclasses.replace(base, **{name: group(**changes)}))["hash"])
    assert len(hashes) == 9
    training = dataclasses.replace(base.training, method="joint")
    same = dataclasses.replace(base, training=training)
    assert fingerprint(same) == fingerprint(base)


def test_explicit_order_equal_to_the_seeded_one_has_the_same_order_hash():
    order = make_protocol(Settings(), 10).order
    explicit = Settings(protocol=ProtocolSettings(class_order=order))
    key = "class_order_hash"
    assert fingerprint(explicit)[key] == fingerprint(Settings())[key]


@pytest.mark.parametrize("text", ['{"phases": [', "", "[]", "\0", '{"phases": {"a": 1e999999}'])
def test_damaged_results_are_made_anew(tmp_path, caplog, text):
    file = tmp_path / "results.json"
    assert results.contents_written(file) == {}
    file.write_text(text)
    assert results.contents_written(file) == {}
    assert ("made again from the records" in caplog.text) == (text != "[]")
    file.write_text('{"phases": [1]}')
    assert results.contents_written(file)["phases"] == [1]


def test_other_data_have_another_id():
    told = [
        {"class_names": ["cat", "dog"], "data_digests": {"training": "files-a", "test": "files-b"}},
        {"class_names": ["cat", "dog"], "data_digests": {"training": "files-c", "test": "files-b"}},
        {"class_names": ["cat", "cow"], "data_digests": {"training": "files-a", "test": "files-b"}},
        {"class_names": ["cat", "dog"], "data_digests": None},
    ]
    assert len({results.data_id(contents) for contents in told}) == 4
    assert results.data_id({"class_names": ["cat", "dog"]}) == results.data_id(told[3])
    assert results.data_id({}) is None
