"""The table of states in docs/states.md, and whether a story did what it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.stories.watch import Transition

PAGE = Path(__file__).parents[2] / "docs" / "states.md"
_KINDS = {"An expert": "expert", "A merged version": "merged version"}


@dataclass(frozen=True)
class Row:
    """One row of the table: a transition, what people read with it, and the story that shows it."""

    kind: str
    before: str
    after: str
    reason: str
    story: str

    @property
    def move(self) -> tuple[str, str, str]:
        return self.kind, self.before, self.after

    def tells(self, transition: Transition) -> bool:
        """Whether the row's sentence, in which … stands for anything, is what was read."""
        parts = map(re.escape, self.reason.split("…"))
        same = re.fullmatch(".*".join(parts), transition.reason, re.DOTALL)
        return self.move == (transition.kind, transition.before, transition.after) and bool(same)


def read_rows() -> list[Row]:
    """Every row of every table on the page."""
    rows, kind = [], ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            kind = _KINDS.get(line.removeprefix("## "), "")
        elif kind and line.startswith("| ") and not line.startswith("| from"):
            before, after, _, reason, story = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append(Row(kind, before, after, reason.strip("*"), story.strip("`")))
    return rows


def check_transitions(story: str, made: Sequence[Transition]) -> None:
    """Fails where a story made a transition that the table lacks, or not the one it is to show."""
    rows = read_rows()
    for transition in made:
        assert any(row.tells(transition) for row in rows), f"docs/states.md lacks {transition}"
    for row in rows:
        if row.story == story:
            assert any(row.tells(transition) for transition in made), f"not shown: {row}"
