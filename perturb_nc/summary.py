"""How results print: short in a terminal, a table in a notebook, rows of a data frame."""

import html
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import Enum
from functools import singledispatch
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import xarray as xr

_LONGEST = 1000  # characters of a repr
_TEXT, _ENTRIES, _ROWS = 60, 4, 12  # shown of a word, of a collection, of a table


class Summarised:
    """Base of results: what they say of themselves is no dump of their tensors.

    A dataclass says `repr=False`, so that this repr stays.
    """

    def _summary(self) -> Mapping[str, object]:
        """Name → what is worth reading; the public fields unless a result knows better."""
        own: Any = self
        return {f.name: getattr(self, f.name) for f in fields(own) if f.name[0] != "_"}

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={brief(value)}" for name, value in self._summary().items())
        text = f"{type(self).__name__}({parts})"
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2]}…)"

    def _repr_html_(self) -> str:
        lines = [[name, _worded(value)] for name, value in self._summary().items()]
        return f"<div>{_table(type(self).__name__, [], lines)}{picture(self)}</div>"


class Tabular(Summarised):
    """Base of results that are rows of numbers: `to_dataframe`, `to_xarray`."""

    _index: ClassVar[tuple[str, ...]]
    """Columns that tell the rows apart."""
    _main: ClassVar[tuple[str, ...]] = ("nc1_trace", "nc1", "nc2_etf", "cdnv")
    """Columns for which a notebook has room."""

    def _columns(self) -> dict[str, list[Any]]:
        """Name → values, a row each."""
        raise NotImplementedError

    def to_dataframe(self) -> "pd.DataFrame":
        """The rows as a pandas DataFrame, all metrics among its columns."""
        import pandas as pd

        return pd.DataFrame(self._columns()).set_index([*self._index])

    def to_xarray(self) -> "xr.Dataset":
        """The same as an xarray Dataset, with what tells the rows apart as dimensions."""
        return self.to_dataframe().to_xarray()

    def _repr_html_(self) -> str:
        columns = self._columns()
        names = [*self._index, *(name for name in self._main if name in columns)]
        rows = list(zip(*(columns[name] for name in names), strict=True))
        shown = [[brief(value) for value in row] for row in islice(rows, _ROWS)]
        if len(rows) > _ROWS:
            shown.append([f"… {len(rows) - _ROWS} more: to_dataframe()", *[""] * (len(names) - 1)])
        return f"<div>{super()._repr_html_()}{_table('', names, shown)}</div>"


@singledispatch
def picture(result: Any) -> str:
    """A small figure of a result, as HTML: "" unless `perturb_nc.show.notebook` draws its kind."""
    return ""


def brief(value: Any) -> str:
    """A value in a few characters: four digits of a number, the shape of a tensor."""
    if isinstance(value, Summarised):
        return f"{type(value).__name__}(…)"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        if len(value) > _ENTRIES:
            return f"{{{len(value)} entries}}"
        return f"{{{', '.join(f'{name}: {brief(v)}' for name, v in value.items())}}}"
    if isinstance(value, list | tuple | frozenset):
        if len(value) > _ENTRIES:
            return f"[{len(value)} entries]"
        return f"[{', '.join(map(brief, value))}]"
    if hasattr(value, "shape") and hasattr(value, "item"):
        return brief(value.item()) if value.ndim == 0 else "×".join(map(str, value.shape))
    text = str(value)
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


def tally(words: Iterable[Enum]) -> dict[str, int]:
    """How many there are of each, the most frequent first."""
    return dict(Counter(word.name for word in words).most_common())


def _worded(value: object) -> str:
    """`brief`, but a status says what to do."""
    if isinstance(value, Enum) and isinstance(value.value, str):
        return f"{value.name}: {value.value}"
    return brief(value)


def _table(title: str, header: list[str], rows: list[list[str]]) -> str:
    """An HTML table; whatever it is given is text."""
    caption = f"<caption><b>{html.escape(title)}</b></caption>" if title else ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        "<tr><th>{}</th>{}</tr>".format(
            html.escape(first), "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        )
        for first, *cells in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f"<table>{caption}{head}<tbody>{body}</tbody></table>"
