"""What a section of the report is made of, and how the numbers of a table line up.

A section is a module with a function that returns a `Section`; the page renders the parts of any,
one macro of its template for each kind.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from perturb_nc.show.labels import number


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: what is shown.
        value: what sorts and is downloaded, in full precision; "" when there is none.
        why: why there is none.
        best: it is the smallest of those it is compared with, or nearly.
        below: what stands below it in small, as an interval does.
        href: where it leads.
        pad: unseen, after the text, so that decimal points stand below each other.
    """

    text: str
    value: float | str
    why: str = ""
    best: bool = False
    below: str = ""
    href: str = ""
    pad: str = ""


@dataclass(frozen=True)
class Table:
    """A caption, the names of the columns with an explanation each ("" for none), and the rows.

    The first cell of a row names it. Columns without any value are dropped, but for those kept.
    """

    key: str
    caption: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]
    kept: frozenset[str] = frozenset()
    kind: ClassVar[str] = "table"

    def shown(self) -> "Table":
        """The table as it is shown: without empty columns, digits aligned."""
        names = list(self.columns)
        full = [
            i
            for i, name in enumerate(names)
            if i == 0 or name in self.kept or any(row[i].value != "" for row in self.rows)
        ]
        columns = [_aligned([row[i] for row in self.rows]) for i in full]
        rows = [list(row) for row in zip(*columns, strict=True)]
        return replace(self, columns={names[i]: self.columns[names[i]] for i in full}, rows=rows)


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        key: unique in its section.
        title: what it shows.
        figure: data, layout and (with a control) frames, for plotly.js.
        views: state of the control → one sentence for those who do not see the figure.
        columns: of the download → "view", "series", "point", "x", "y", "low" or "high".
        points: what the points of a trace are called in it.
        control: "select", "range" or "".
        height: in rem.
    """

    key: str
    title: str
    figure: dict[str, Any]
    views: dict[str, str]
    columns: dict[str, str]
    points: Sequence[str | int]
    control: str = ""
    height: float = 26.0
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Sentences:
    """A list below a title; left out where it is empty."""

    title: str
    sentences: Sequence[str]
    kind: ClassVar[str] = "sentences"


@dataclass(frozen=True)
class Definitions:
    """Words and what they mean."""

    words: Mapping[str, str]
    kind: ClassVar[str] = "definitions"


@dataclass(frozen=True)
class Choice:
    """Tables of which a control shows one."""

    key: str
    label: str
    tables: Mapping[str, Table]
    first: str
    kind: ClassVar[str] = "choice"


@dataclass(frozen=True)
class Folded:
    """Parts that open with a click; print opens them."""

    title: str
    parts: Sequence["Part"]
    kind: ClassVar[str] = "folded"


Part = Table | Figure | Text | Sentences | Definitions | Choice | Folded


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Attributes:
        key: unique in its network.
        title: the heading.
        parts: in order.
    """

    key: str
    title: str
    parts: Sequence[Part] = field(default_factory=tuple)


def figures_in(parts: Iterable[Part]) -> Iterable[Figure]:
    """All figures among the parts, folded ones too."""
    for part in parts:
        if isinstance(part, Figure):
            yield part
        elif isinstance(part, Folded):
            yield from figures_in(part.parts)


def numeric(value: Any, why: str) -> Cell:
    """A number, or a dash with the reason where it is NaN."""
    x = float(value)
    return Cell("–", "", why) if math.isnan(x) else Cell(number(x), x)


def whole(value: Any) -> Cell:
    """An integer."""
    return Cell(str(int(value)), int(value))


def named(value: Any, short: str = "") -> Cell:
    """Words; short ones shown, the whole behind them."""
    return Cell(short or str(value), str(value))


def _aligned(column: list[Cell]) -> list[Cell]:
    """Padded so that decimal points stand below each other in a column aligned to the right."""
    tails = [re.sub(r"^-?\d*", "", c.text) if isinstance(c.value, float) else "" for c in column]
    longest = max(tails, key=len, default="")
    return [
        replace(c, pad=longest[len(tail) :]) if isinstance(c.value, float) else c
        for c, tail in zip(column, tails, strict=True)
    ]
