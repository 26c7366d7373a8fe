"""The table that counts are held against: its file, and the comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

TOLERANCE = 0.03
"""Share by which a count may grow: less is the compiler's taste, and costs no one anything."""

Rows = Mapping[str, Mapping[str, float]]
"""Instructions per element, by row and element type."""


@dataclass(frozen=True)
class Tier:
    """The counts of one instruction set.

    Parameters
    ----------
    compiler : str
        Its name and major version: another one makes other instructions.
    counter : str
        Who counted.
    rows : mapping
        The counts.
    """

    compiler: str
    counter: str
    rows: Rows


class Verdict(Enum):
    """What became of a count."""

    SAME = "same"
    WORSE = "worse"
    BETTER = "better"
    NEW = "not in the table"
    OTHER_COMPILER = "not comparable"


@dataclass(frozen=True)
class Change:
    """A count and what the table says."""

    row: str
    dtype: str
    now: float
    before: float | None
    verdict: Verdict

    @property
    def share(self) -> float | None:
        """By how much the count has changed, as a share of what it was."""
        return self.now / self.before - 1 if self.before else None


def compared(now: Tier, before: Tier | None, tolerance: float = TOLERANCE) -> list[Change]:
    """Hold counts against the table's."""
    return [
        _change(row, dtype, count, before, now.compiler, tolerance)
        for row, found in now.rows.items()
        for dtype, count in found.items()
    ]


def _change(
    row: str, dtype: str, now: float, table: Tier | None, compiler: str, tolerance: float
) -> Change:
    before = table.rows.get(row, {}).get(dtype) if table else None
    if table is None or before is None:
        verdict = Verdict.NEW
    elif table.compiler != compiler:
        verdict = Verdict.OTHER_COMPILER
    elif now > before * (1 + tolerance):
        verdict = Verdict.WORSE
    elif now < before * (1 - tolerance):
        verdict = Verdict.BETTER
    else:
        verdict = Verdict.SAME
    return Change(row, dtype, now, before, verdict)


def left_over(now: Mapping[str, Tier], table: Mapping[str, Tier]) -> list[str]:
    """Return the tiers of the table that were not counted, and the rows of the others."""
    found = [tier for tier in table if tier not in now]
    for tier in now.keys() & table.keys():
        found += [f"{tier} {row}" for row in table[tier].rows if row not in now[tier].rows]
    return found


def as_text(tiers: Mapping[str, Tier]) -> str:
    """Return the file's text, with a line for each row so that differences can be read."""
    blocks = []
    for name in sorted(tiers):
        tier = tiers[name]
        rows = ",\n".join(
            f"   {json.dumps(row, ensure_ascii=False)}: {json.dumps(found)}"
            for row, found in tier.rows.items()
        )
        blocks.append(
            f' {json.dumps(name)}: {{\n  "compiler": {json.dumps(tier.compiler)},\n'
            f'  "counter": {json.dumps(tier.counter)},\n  "rows": {{\n{rows}\n  }}\n }}'
        )
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def from_text(text: str) -> dict[str, Tier]:
    """Read what `as_text` wrote."""
    return {name: Tier(**tier) for name, tier in json.loads(text).items()}


def load(path: Path) -> dict[str, Tier]:
    """Read a table, which is empty if there is none."""
    return from_text(path.read_text(encoding="utf-8")) if path.exists() else {}


def save(path: Path, tiers: Mapping[str, Tier]) -> None:
    """Write a table."""
    path.write_text(as_text(tiers), encoding="utf-8")


def per_element(found: Sequence[tuple[str, str, int, int]]) -> Rows:
    """Arrange (row, dtype, instructions, elements) as rows, in units of the table."""
    rows: dict[str, dict[str, float]] = {}
    for row, dtype, instructions, elements in found:
        rows.setdefault(row, {})[dtype] = round(instructions / elements, 3)
    return rows
