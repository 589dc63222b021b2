"""Which runs are one group of a report, what it is called, and what is warned of."""

import json
import pathlib

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.methods import METHODS, Method
from mnemonics_tf.reporting import tables
from mnemonics_tf.reporting.comparability import warnings
from mnemonics_tf.reporting.groups import group_runs
from mnemonics_tf.reporting.runs import load_runs, seeds_in_words
from tests.reporting.report_runs import contents, with_learned

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "results"
RANDOM = {"exemplar__exemplars": "random"}


def test_seeds_become_one_group_with_an_interval(write):
    runs = load_runs(write(contents(1, (0.9, 0.5)), contents(0, (0.9, 0.7))))
    (group,) = group_runs(runs)
    assert [run.seeds[0] for run in group.runs] == [0, 1]
    last = group.accuracies("classifier")[1]
    assert last.mean == pytest.approx(0.6)
    assert last.deviation == pytest.approx(0.02**0.5)
    assert last.half_width is None  # two seeds are too few
    assert group.accuracies("nme")[0].deviation == pytest.approx(0, abs=1e-9)
    forgotten = group.metric("classifier", "forgetting")
    assert forgotten.values == (pytest.approx(0.2), pytest.approx(0.4))
    assert warnings(runs, [group]) == []


def test_runs_that_learned_further_classes_otherwise_stand_apart(write):
    """With settings that have an effect; others are no difference."""
    runs = [contents(), with_learned(contents()), with_learned(contents(), training__epochs=50)]
    runs.append(with_learned(contents(1), training__epochs=50, adjustment__adjust_steps=3))
    groups = group_runs(load_runs(write(*runs)))
    assert [[run.seeds[0] for run in group.runs] for group in groups] == [[0], [0, 1]]
    assert [group.name for group in groups] == ["lwf, herding", "lwf, herding, epochs (phase 1)=50"]
    table = tables.settings(groups)
    assert table.rows[0] == ("epochs (phase 1)", "null", "50")


def test_three_seeds_have_an_interval(write):
    runs = load_runs(write(*(contents(seed, (0.9, 0.5 + 0.1 * seed)) for seed in range(3))))
    (group,) = group_runs(runs)
    last = group.accuracies("classifier")[1]
    assert last.half_width == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert tables.summary([group]).rows[0][5] == "60.00 ± 24.84\n(sd 10.00)"


def test_differences_are_formed_seed_by_seed(write):
    runs = load_runs(
        write(
            *(contents(seed, (0.9, 0.5 + 0.1 * seed)) for seed in range(2)),
            *(
                contents(seed, (0.9, 0.52 + 0.1 * seed), exemplar__exemplars="random")
                for seed in range(3)
            ),
            contents(0, (0.9, 0.54), exemplar__exemplars_per_class=3),
            contents(0, protocol__base_classes=4),
        )
    )
    table = tables.paired(group_runs(runs))
    assert table.caption.startswith("Difference from lwf, herding")
    assert [row[:3] for row in table.rows] == [
        ("lwf, random", "classifier", "0, 1"),
        ("lwf, random", "nme", "0, 1"),
        # With another memory, but not with other classes in a phase.
        (table.rows[2][0], "classifier", "0"),
        (table.rows[2][0], "nme", "0"),
    ]
    assert table.rows[2][4] == "+4.00"
    assert table.rows[0][4] == "+2.00\n(sd 0.00)\n+2.00, +2.00"
    assert tables.paired(group_runs(runs[:2])) is None


def test_other_settings_make_other_groups_with_names_that_differ(write):
    runs = load_runs(
        write(
            contents(),
            contents(training__epochs=3),
            contents(exemplar__exemplars="random"),
            contents(training__method="joint"),
        )
    )
    names = [group.name for group in group_runs(runs)]
    assert names == [
        "lwf, herding, epochs=10",
        "lwf, herding, epochs=3",
        "lwf, random",
        "joint (upper bound)",
    ]


def test_names_hold_three_differences_that_matter(write):
    runs = load_runs(
        write(
            contents(),
            contents(
                training__epochs=3,
                model__depth=14,
                training__base_epochs=4,
                training__batch_size=8,
                training__ranking_margin=0.1,  # LUCIR's
                outer__outer_steps=7,  # of exemplars that learn
            ),
        )
    )
    names = [group.name for group in group_runs(runs)]
    assert names[1] == "lwf, herding, depth=14, base_epochs=4, epochs=3"


@pytest.mark.parametrize(
    ("shared", "other"),
    [
        ({}, {"outer__outer_steps": 7}),
        ({}, {"outer__max_shift": 255.0}),
        ({}, {"validation__validation_every": 3}),
        ({}, {"training__ranking_margin": 0.1}),
        ({}, {"training__finetune_old_classes": False}),
        ({"training__method": "bic"}, {"training__classification_weight": 0.9}),
        ({"training__method": "lucir"}, {"training__temperature": 3.0}),
        ({}, {"exemplar__jpeg_quality": 70}),
        ({}, {"training__evaluation_batch_size": 7}),
    ],
)
def test_settings_without_effect_part_no_groups(write, shared, other):
    runs = load_runs(write(contents(0, **shared), contents(1, **shared, **other)))
    (group,) = group_runs(runs)
    assert len(group.runs) == 2
    assert group.name == f"{shared.get('training__method', 'lwf')}, herding"


@pytest.mark.parametrize(
    ("shared", "other"),
    [
        ({"exemplar__exemplars": "mnemonics"}, {"outer__max_shift": 255.0}),
        ({"adjustment__adjust_old_exemplars": True}, {"outer__max_shift": 255.0}),
        ({"training__method": "lucir"}, {"training__ranking_margin": 0.1}),
        ({"training__method": "lucir"}, {"training__finetune_old_classes": False}),
        ({}, {"training__classification_weight": 0.9}),
        (
            {
                **{"exemplar__exemplars": "mnemonics", "inner__inner_start": "pool"},
                "training__finetune_epochs": 0,
            },
            {"training__finetune_learning_rate": 0.1},
        ),
        ({"training__method": "bic"}, {"training__temperature": 3.0}),
        ({"exemplar__codec": "jpeg"}, {"exemplar__jpeg_quality": 70}),
        ({}, {"exemplar__exemplars_per_class": 7}),
    ],
)
def test_the_same_settings_part_groups_where_they_have_one(write, shared, other):
    runs = load_runs(write(contents(0, **shared), contents(1, **shared, **other)))
    assert len(group_runs(runs)) == 2


LEARNS = {"exemplar__exemplars": "mnemonics"}


@pytest.mark.parametrize(
    ("shared", "other"),
    [
        ({"training__method": "mine"}, {"training__temperature": 4.0}),
        ({"training__method": "mine:Mine"}, {"training__ranking_margin": 0.1}),
        ({**LEARNS, "inner__meta_gradient": "mine:Mine"}, {"inner__truncated_steps": 9}),
        ({**LEARNS, "inner__meta_gradient": "mine"}, {"inner__truncated_steps": 9}),
        ({**LEARNS, "outer__objective": "mine:Mine"}, {"inner__truncated_steps": 9}),
        ({**LEARNS, "outer__objective": "mine"}, {"outer__outer_momentum": 0.5}),
    ],
)
def test_what_does_not_come_with_the_project_may_read_anything(write, monkeypatch, shared, other):
    """Also where a line of a registry names it, as the guides have it."""
    monkeypatch.setitem(METHODS, "mine", Method)
    runs = load_runs(write(contents(0, **shared), contents(1, **shared, **other)))
    assert len(group_runs(runs)) == 2


def test_a_registered_method_that_freezes_nothing_has_nothing_to_free(write, monkeypatch):
    """A run of a version that had no such setting goes on, too."""
    monkeypatch.setitem(METHODS, "mine", Method)
    shared, other = {"training__method": "mine"}, {"training__finetune_old_classes": False}
    runs = load_runs(write(contents(0, **shared), contents(1, **shared, **other)))
    assert len(group_runs(runs)) == 1


def test_seeds_of_exemplars_tell_runs_apart(write):
    """They form a group, as other seeds do, and each is told."""
    (group,) = group_runs(
        load_runs(write(*(contents(0, exemplar__exemplar_seed=i) for i in (1, 2))))
    )
    assert [seeds_in_words(run.seeds) for run in group.runs] == ["0/1", "0/2"]
    (plain,) = group_runs(load_runs(write(contents(3))))
    assert seeds_in_words(plain.first.seeds) == "3"


def test_a_setting_is_named_of_the_runs_it_has_an_effect_in(write):
    runs = load_runs(write(contents(), contents(exemplar__exemplars_total=200)))
    assert [group.name for group in group_runs(runs)] == [
        "lwf, herding, exemplars_per_class=20, exemplars_total=0",
        "lwf, herding, exemplars_total=200",
    ]


def test_runs_that_three_differences_do_not_tell_apart_have_their_paths(write):
    less = {"model__depth": 14, "training__base_epochs": 4, "training__epochs": 3}
    paths = write(contents(), contents(**less), contents(**less, training__momentum=0.5))
    names = [group.name for group in group_runs(load_runs(paths))]
    shared = "lwf, herding, depth=14, base_epochs=4, epochs=3"
    assert names[1:] == [f"{shared}, {path}" for path in paths[1:]]


def test_settings_and_protocol_that_an_older_file_lacks_are_as_they_were(write):
    older = contents(1)
    del older["settings"]["outer"], older["protocol"]["exemplars_total"]
    del older["settings"]["training"]["ranking_margin"]
    runs = load_runs(write(contents(0, outer__max_shift=255.0), older))
    (group,) = group_runs(runs)
    assert len(group.runs) == 2
    assert warnings(runs, [group]) == []


def test_runs_can_be_named(tmp_path, write):
    first, second, third = write(contents(), contents(1), contents(training__epochs=3))
    groups = group_runs(load_runs([f"our run={first}", f"our run={second}", f"b={third}"]))
    assert [(group.name, len(group.runs)) for group in groups] == [("our run", 2), ("b", 1)]
    apart = group_runs(load_runs([f"a={first}", f"b={second}"]))
    assert [group.name for group in apart] == ["a", "b"]
    same = group_runs(load_runs([f"a={first}", f"a={third}"]))
    assert [group.name for group in same] == ["a, epochs=10", "a, epochs=3"]
    odd = tmp_path / "x=y.json"
    odd.write_text(json.dumps(contents()))
    assert load_runs([str(odd)])[0].name == ""
    for argument in (f"={first}", "a="):
        with pytest.raises(UserError, match="expected a path, or NAME=PATH"):
            load_runs([argument])
    with pytest.raises(UserError, match="pass it once"):
        load_runs([f"a={first}", f"b={first}"])


def test_seeds_of_further_phases_tell_runs_apart(write):
    """One base run, extended with several seeds."""
    further = [with_learned(contents(), protocol__seed=seed) for seed in (0, 1, 2, 2)]
    further[2]["phases"][-1]["learned"]["settings"]["exemplar"]["exemplar_seed"] = 5
    runs = load_runs(write(*further))
    groups = group_runs(runs)
    (group,) = groups
    expected = ["0", "0 (from phase 1: 1)", "0 (from phase 1: 2)", "0 (from phase 1: 2/5)"]
    assert [seeds_in_words(run.seeds) for run in group.runs] == expected
    assert not any("repeats" in text for text in warnings(runs, groups))
    other = load_runs(write(*further[:2], with_learned(contents(**RANDOM), protocol__seed=1)))
    assert tables.paired(group_runs(other)).rows[0][2] == "0 (from phase 1: 1)"


def test_a_seed_counts_once(write):
    same = contents()
    runs = load_runs([*write(same, same), *write(same, same)])
    assert len(runs) == 2  # a path that comes twice is one run
    (group,) = group_runs(runs)
    assert len(group.runs) == 1
    assert group.runs[0].path.name == "0.json"
    (warning,) = warnings(runs, [group])
    assert "1.json repeats" in warning


def on(names: str, digest: str | None, seed: int = 0) -> dict:
    """Results of a run on some data."""
    digests = {"training": digest, "test": "files-0"} if digest else None
    order = {"class_order": list(range(10)), "class_names": names.split() + list("cdefghij")}
    return contents(seed) | order | {"data_digests": digests}


def test_runs_on_other_data_are_neither_averaged_nor_repeats(write):
    runs = load_runs(
        write(on("a b", "files-1"), on("a b", "files-2", 1), on("k l", "files-1"), on("a b", None))
    )
    groups = group_runs(runs)
    assert [len(group.runs) for group in groups] == [1] * 4
    assert len({group.name for group in groups}) == 4
    found = warnings(runs, groups)
    (warning,) = [text for text in found if text.startswith("Other classes or images: ")]
    assert "a, b, c, ... (lwf" in warning
    assert "images not noted (lwf" in warning
    assert not any("repeats" in text for text in found)
    same = load_runs(write(on("a b", "files-1"), on("a b", "files-1", 1)))
    (group,) = group_runs(same)
    assert len(group.runs) == 2
    assert warnings(same, [group]) == []


def test_runs_that_began_with_other_files_of_weights_stand_apart(write):
    """What is drawn is of the seed; earlier versions noted nothing."""
    first, second = ({"backbone_digests": {"weights": text}} for text in ("a" * 32, "b" * 32))
    of_files = [contents() | first, contents(1) | first, contents() | second]
    drawn = [contents() | {"backbone_digests": None}, contents(1)]
    runs = load_runs(write(*of_files, *drawn))
    groups = group_runs(runs)
    assert [[run.seeds[0] for run in group.runs] for group in groups] == [[0, 1], [0], [0, 1]]
    names = [group.name for group in groups]
    assert names[2] == "lwf, herding"
    assert all(name.startswith("lwf, herding, backbone_digest=") for name in names[:2])
    told = warnings(runs, groups)
    assert not any("repeats" in text for text in told)
    apart = "did not note the files of a backbone, stand apart from those that do: lwf, herding."
    assert sum(text.endswith(apart) for text in told) == 1
    known = load_runs(write(*of_files, drawn[0]))
    assert not any("did not note" in text for text in warnings(known, group_runs(known)))


def of_phase0(seed: int, of: int, **changes) -> dict:
    """Results of a run whose phase 0 was trained with a seed, perhaps not its own."""
    return contents(seed, **changes) | {"phase0_seed": of, "phase0_mixed_precision": "off"}


def warned(*groups: list[dict], write) -> list[str]:
    runs = load_runs(write(*(run for group in groups for run in group)))
    return warnings(runs, group_runs(runs))


BFLOAT16 = {"training__mixed_precision": "bfloat16"}


@pytest.mark.parametrize("shared", [{}, BFLOAT16])
def test_pairs_that_do_not_share_their_phase_0_are_warned_of(write, shared):
    own = [contents(seed, **shared) for seed in (0, 1)]
    taken = [of_phase0(seed, 1, **shared, **RANDOM) for seed in (0, 1)]
    (warning, _) = warned(own, taken, write=write)
    seeds = "0, 1" if shared else "0"  # its own would have been trained in bfloat16
    assert warning.startswith("Another phase 0 than that of lwf, herding: of seed "
                              f"{seeds} (lwf, random)")  # fmt: skip
    same = [of_phase0(seed, 1, **shared) for seed in (0, 1)]
    (warning,) = warned(same, taken, write=write)
    assert warning.startswith("One phase 0 for all seeds (lwf, herding / lwf, random): deviations")


def test_each_that_trains_its_own_phase_0_is_warned_of_nothing(write):
    """With other settings, which are told."""
    other = [contents(seed, **BFLOAT16) for seed in (0, 1)]
    noted = [of_phase0(seed, seed) for seed in (0, 1)]
    assert warned(noted, other, write=write) == []


def test_seeds_of_which_some_share_their_phase_0_are_warned_of(write):
    (warning,) = warned([of_phase0(seed, min(seed, 1)) for seed in range(3)], write=write)
    assert warning.startswith("One phase 0 for several seeds and others for the rest (lwf, herd")


def test_different_protocols_are_warned_of(write):
    runs = load_runs(write(contents(), contents(exemplar__exemplars_per_class=5)))
    (warning,) = warnings(runs, group_runs(runs))
    assert warning.startswith("Other memories: 20 a class (lwf")
    assert "; 5 a class (" in warning
    runs = load_runs(write(contents(), contents(protocol__base_classes=4)))
    (warning,) = warnings(runs, group_runs(runs))
    assert warning.startswith("Other protocols: base_classes is ")


@pytest.mark.parametrize(("stored", "same"), [(6144, True), (3072, False), (None, False)])
def test_budgets_that_allow_the_same_bytes_a_class_are_no_other_memories(write, stored, same):
    counted = contents()
    counted["phases"][-1]["memory"] = {"bytes_by_class": [stored, 16]} if stored else {}
    in_bytes = contents(exemplar__exemplar_bytes_per_class=6144)
    in_bytes["protocol"] |= {"exemplar_bytes_per_class": 6144}
    runs = load_runs(write(counted, in_bytes))
    found = warnings(runs, group_runs(runs))
    assert [text.startswith("Other memories: ") for text in found] == [True] * (not same)


def test_a_warning_is_one_line_however_many_runs(write):
    several = [
        contents(training__epochs=n, exemplar__exemplars_per_class=5 + n % 2) for n in range(1, 9)
    ]
    runs = load_runs(write(*several))
    (warning,) = warnings(runs, group_runs(runs))
    assert "and 2 more" in warning
    assert len(warning) < 400
    assert "\n" not in warning


def test_unfinished_runs_and_uneven_seeds_are_warned_of(write):
    runs = load_runs(write(contents(), contents(5, (0.9,), training__method="icarl")))
    found = " ".join(warnings(runs, group_runs(runs)))
    assert "has 1 of 2 phases" in found
    assert "same seeds" in found
    assert "protocols" not in found.lower()
