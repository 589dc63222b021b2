"""results.json as a report reads it: its shape, and whether its parts fit each other."""

import itertools
from typing import Any

from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.run import schema
from mnemonics_tf.run.data_facts import DIGESTS
from mnemonics_tf.run.records import record_shape

_LARGEST = 2**31 - 1  # of settings
_SIGNED = schema.whole(-_LARGEST, _LARGEST)

#: the settings that a report looks at, in whatever group; another version may have others
_SETTINGS = {
    **dict.fromkeys(("method", "exemplars", "codec", "mixed_precision"), schema.text),
    **dict.fromkeys(("weight_transfer", "adjust_old_exemplars"), schema.flag),
    **dict.fromkeys(("base_epochs", "epochs", "finetune_epochs"), _SIGNED),
    **dict.fromkeys(("seed", "exemplar_seed"), _SIGNED),
    **dict.fromkeys(("exemplars_per_class", "exemplars_total"), _SIGNED),
    **dict.fromkeys(("exemplar_bytes_per_class", "exemplar_bytes_total"), _SIGNED),
}

_GROUPS = schema.mapping(schema.fields({}, _SETTINGS, others=schema.plain))

_SHAPE = schema.fields(
    {
        "settings": _GROUPS,
        "protocol": schema.fields(
            {"dataset": schema.text, "num_phases": schema.whole(0, _LARGEST)},
            others=schema.plain,
        ),
        "phases": schema.sequence(schema.anything, at_least=1),
    },
    {
        "prediction_head": schema.one_of(*HEADS),
        "phase0_seed": _SIGNED,
        "phase0_mixed_precision": schema.text,
        "class_order": schema.sequence(schema.whole(-(2**31), _LARGEST)),  # any of 32 bits
        "class_names": schema.sequence(schema.text),
        **dict.fromkeys(
            (DIGESTS, "backbone_digests"), schema.optional(schema.mapping(schema.text))
        ),
        "packages": schema.optional(schema.mapping(schema.plain)),
        "hardware": schema.optional(schema.mapping(schema.plain)),
    },
)


def trouble(contents: Any) -> str | None:
    """Returns what is wrong with the parts of results.json that a report looks at, if anything."""
    wrong = _SHAPE(contents)
    if wrong:
        return wrong.lstrip("/: ")
    records = contents["phases"]
    for index, record in enumerate(records):
        wrong = record_shape(index)(record)
        if wrong:
            return f"phases/{index}{wrong}"
        wrong = _GROUPS(record.get("learned", {}).get("settings", {}))
        if wrong:
            return f"phases/{index}/learned/settings{wrong}"
    seen = [record["num_seen"] for record in records]
    if any(later <= earlier for earlier, later in itertools.pairwise(seen)):
        return f"phases: num_seen must grow from phase to phase, found {seen[:10]}"
    for name in ("class_order", "class_names"):
        listed = contents.get(name)
        if listed is not None and (len(set(listed)) != len(listed) or len(listed) < seen[-1]):
            return (
                f"{name}: expected each class once, {seen[-1]} at least, found {len(listed)} "
                f"entries of which {len(set(listed))} differ"
            )
    return None
