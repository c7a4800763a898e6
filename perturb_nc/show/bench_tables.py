"""The bench of the theories of depth: its record, what it says, and its tables for the terminal."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from rich.box import SIMPLE_HEAD
from rich.table import Table

from perturb_nc.show.labels import number, symbol
from perturb_nc.study.theories import THEORIES
from perturb_nc.study.verdict import TOLD, verdicts


def record(bench: xr.Dataset) -> dict[str, Any]:
    """A network's bench in plain values: verdict, the way of every stage, every prediction."""
    (verdict,) = verdicts([bench])
    return {
        **verdict.as_dict(),
        "status": bench.attrs["status"],
        "ways": [_way(own) for _, own in bench.groupby("stage") if own.sizes["layer"] > 1],
        "bench": bench.to_dict(),
    }


def _way(stage: xr.Dataset) -> dict[str, Any]:
    """How straight the way through the layers of a stage is."""
    shape, ratio = (float(stage[name][0]) for name in ("line_shape", "path_ratio"))
    return {
        "of": stage.attrs["way_of"],
        "layers": stage["layer"].values.tolist(),
        "line_shape": shape,
        "path_ratio": ratio,
        "share": stage["share"].values.tolist(),
        "off_line": stage["off_line"].values.tolist(),
    }


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Which theory a network follows, and how straight it is."""
    said = ["follows none: no theory predicts half of the layers"]
    if record["follows"]:
        follows = _named(record, "follows")
        said = [f"follows {follows}: median |log error| in the span of the class means"]
    if record["features"] and record["features"] != record["follows"]:
        said.append(f"nearest that says what becomes of features: {_named(record, 'features')}")
    if record["nearer"]:
        said.append(f"nearer, without any theory: {_named(record, 'nearer')}")
    for way in record["ways"]:
        far = int(np.nanargmax(way["off_line"]))
        said.append(
            f"way of the {way['of']} to {way['layers'][-1]}: line shape "
            f"{number(way['line_shape'])} (1 is straight), path ratio {number(way['path_ratio'])}, "
            f"at most {number(way['off_line'][far])} of the way off the line ({way['layers'][far]})"
        )
    if record["status"] == "TIME_LIMIT":
        said.append("stopped at the time limit: path and chains do not predict all layers")
    return said


def _named(record: Mapping[str, Any], which: str) -> str:
    """Theories with their errors in the span."""
    rows = record["theories"]
    return ", ".join(f"{name} ({number(rows[name]['in_span'])})" for name in record[which])


def parts(record: Mapping[str, Any], *, title: str) -> list[Table | str]:
    """The table of a network, then `sentences`."""
    metric = symbol(record["metric"])
    judged = f"{record['judged']} of {record['layers']} layers judged"
    table = Table(
        title=f"{title}: median |log(predicted/measured)|, layers placed by {metric}",
        caption=f"{judged}; – predicts fewer than half of the layers, or of the quantities",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("theory", no_wrap=True)
    for head in ("in the\nspan", "with\noutside", "layers"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("furthest off", overflow="fold")
    for name, row in record["theories"].items():
        mark = "*" if name in record["follows"] else ""
        worst = row["worst"]
        said = "–"
        if worst is not None:
            said = f"{worst['layer']}: {symbol(worst['quantity'])} {number(worst['error'], 2)}"
        cells = [number(row["in_span"]) + mark, number(row["out_of_span"]), str(row["predicted"])]
        table.add_row(name, *cells, said)
    return [table, *sentences(record)]


def sees_table() -> Table:
    """What every theory is shown, and told of the layer left out."""
    table = Table(title="What each sees", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("theory", no_wrap=True)
    table.add_column("sees", overflow="fold")
    table.add_column("of the layer itself", overflow="fold")
    for name, theory in THEORIES.items():
        table.add_row(name, theory.sees, TOLD[theory.places])
    return table
