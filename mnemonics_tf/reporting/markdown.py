"""The report's tables as Markdown."""

from collections.abc import Sequence

from mnemonics_tf.reporting import tables
from mnemonics_tf.reporting.groups import Group
from mnemonics_tf.reporting.memories import memories
from mnemonics_tf.reporting.tables import Table

#: the first line of the file
TITLE = "# Class-incremental runs"

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>#|~"})


def summary(groups: Sequence[Group], warnings: Sequence[str]) -> str:
    """Returns warnings and tables.

    Args:
        groups: of the runs.
        warnings: against comparing them.
    """
    shown = [
        tables.summary(groups),
        tables.paired(groups),
        *(tables.by_phase(group, group.head) for group in groups),
        tables.beside_the_paper(groups),
        memories(groups),
        *(table for group in groups if (table := tables.learning(group))),
        tables.times(groups),
        tables.runs(groups),
        tables.fingerprints(groups),
    ]
    parts = [f"{TITLE}\n"]
    if warnings:
        items = "\n".join(f"- {escape(text)}" for text in warnings)
        parts.append(f"**Before comparing**\n\n{items}\n")
    parts += [_table(table) for table in shown if table]
    return "\n".join(parts)


def escape(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line."""
    return " ".join(text.translate(_SPECIAL).split())


def _table(table: Table) -> str:
    lines = [f"## {escape(table.caption)}", "", _row(table.header)]
    lines.append("|" + " --- |" * len(table.header))
    lines += [_row(row) for row in table.rows]
    lines += [line for note in table.notes for line in ("", escape(note))]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(escape(cell) for cell in cells)} |"
