"""Where the layers lie on the central path: the section of flow times."""

import xarray as xr

from perturb_nc.show.labels import short_names, symbol
from perturb_nc.show.report.drawing import any_known, by_layer, layers_of, line, plain, values_of
from perturb_nc.show.report.parts import Figure, Part, Section, Text
from perturb_nc.show.report.words import change


def section(comparison: xr.Dataset) -> Section:
    """How layers are placed, and at which times."""
    metric = symbol(str(comparison.attrs["metric"]))
    said = Text(
        "The central path is the course that features take when the optimal last layer pulls at "
        "them, from the first layer of a width on. Each later layer is placed at the time t at "
        f"which the path has the layer's {metric}. All else the path says of it is a prediction."
    )
    figure = time_figure(comparison)
    parts: list[Part] = [said, figure or Text("No layer has a place on a path.")]
    return Section("places", "Where the layers lie on the central path", parts)


def time_figure(comparison: xr.Dataset) -> Figure | None:
    """Flow time of every layer that the path comes by, a line for each width."""
    names, times = layers_of(comparison), values_of(comparison["flow_time"])
    stages = comparison["stage"].values.tolist()
    traces, said = [], []
    for count, stage in enumerate(dict.fromkeys(stages)):
        own = [t if s == stage else float("nan") for t, s in zip(times, stages, strict=True)]
        if not any_known(own):
            continue
        name = f"d = {int(comparison['dim'].values[stages.index(stage)])}"
        traces.append(line(1 + count % 5, name, own))
        said.append(change(f"{name}: flow time", short_names(names), own))
    if not traces:
        return None
    unplaced = sum(t != t for t in times)
    said.append(f"{unplaced} of {len(names)} layers have no place: the table says why")
    summary = "; ".join(said) + "."
    figure = plain(traces, by_layer(names, "flow time t"))
    columns = {"stage": "series", "layer": "point", "flow_time": "y"}
    return Figure("time", "Flow time of the layers", figure, {"": summary}, columns, names)
