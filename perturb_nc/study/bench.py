"""Every theory of depth on one bench: each layer predicted without having been seen."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.comparison import TOP, errors
from perturb_nc.study.depth import CALIBRATING, PLACING
from perturb_nc.study.quantities import QUANTITIES, quantities
from perturb_nc.study.rivals import Stage, stages
from perturb_nc.study.theories import THEORIES

IN_SPAN = ("nc1_span", "nc1", "nc2_etf", "nc2_equinorm", "nc2_equiangular")
OUT_OF_SPAN = ("nc1_trace", "cdnv", "within_share", "top_eigenvalues")
PARAMETERS = ("lambda_w", "beta", "spectral_ratio")
_TIE = 0.1  # of the least error

Joints = Mapping[tuple[str, str], JointStatistics]


def theories_of_depth(
    layers: Mapping[str, ClassStatistics],
    *,
    name: str,
    metric: str = PLACING,
    joints: Joints | None = None,
) -> xr.Dataset:
    """Predict every layer of a network by every theory of depth, each layer left out in its turn.

    A theory is shown the other layers of the same width, and of the layer left out one number at
    most; `THEORIES` says what each makes use of (`perturb_nc.study.theories`).

    Args:
        layers: name → class statistics in order of depth, one set of classes.
        name: of the network.
        metric: by which layers are placed, as for `calibrate_depth`. It is not judged.
        joints: (first, last) layer of a stage → joint statistics, for the straight line between
            measured ends (`perturb_nc.measure.joint_statistics`).

    Returns:
        A dataset with dimensions layer (with coordinates network and stage; the first layer of
        each stage, which is predicted by none, is left out), model, quantity, index, parameter:
        `measured`, `predicted`, `spectrum`, `predicted_spectrum`, `parameters` (λ_W, β, and the
        spectral ratio of the certificate). NaN where there is none. `bench_table` sums it up.

    Raises:
        ValueError: no stage of two layers, or an unknown metric.

    Source: docs §4.6, 4.8; He & Su 2023; Shi, Pan & Dokmanić 2024.
    """
    if metric not in CALIBRATING:
        raise ValueError(f"metric must be one of {', '.join(CALIBRATING)}, got {metric!r}")
    runs = [stage for stage in stages(layers, metric) if not stage.is_alone]
    if not runs:
        raise ValueError(
            "layers must hold two of one width that follow each other, got widths "
            f"{[s.dim for s in layers.values()]}"
        )
    found, numbers = [], []
    for number, stage in enumerate(runs):
        joint = (joints or {}).get((stage.names[0], stage.names[-1]))
        whole = Stage(stage.layers, metric, joint=joint)
        for layer in whole.names[1:]:
            found.append(_left_out(whole, layer))
            numbers.append(number)
    table = xr.concat(found, dim="layer").assign_attrs(metric=metric)
    return table.assign_coords(stage=("layer", numbers), network=("layer", [name] * len(numbers)))


def _left_out(stage: Stage, layer: str) -> xr.Dataset:
    view = stage.hide([layer])
    metrics = np.full((len(THEORIES), len(QUANTITIES)), np.nan)
    spectra = np.full((len(THEORIES), TOP), np.nan)
    parameters = np.full((len(THEORIES), len(PARAMETERS)), np.nan)
    for i, theory in enumerate(THEORIES.values()):
        found = theory.predict(view)
        parameters[i] = [found.parameters.get(p, np.nan) for p in PARAMETERS]
        if layer in found.metrics:
            metrics[i] = quantities(found.metrics[layer])
            spectra[i] = found.spectra[layer][:TOP]
    return xr.Dataset(
        {
            "measured": ("quantity", quantities(stage.measured[layer])),
            "predicted": (("model", "quantity"), metrics),
            "spectrum": ("index", stage.spectra[layer][:TOP]),
            "predicted_spectrum": (("model", "index"), spectra),
            "parameters": (("model", "parameter"), parameters),
        },
        coords={
            "layer": layer,
            "model": list(THEORIES),
            "quantity": list(QUANTITIES),
            "index": np.arange(1, TOP + 1),
            "parameter": list(PARAMETERS),
        },
    )


def bench_table(benches: Sequence[xr.Dataset]) -> xr.Dataset:
    """Median errors of every theory on every network, on the same layers for all.

    Judged are the layers that every theory predicts; one that predicts less than half of a
    network's has failed on it (its errors are NaN there) and takes no layer from the others.

    Args:
        benches: of `theories_of_depth`, all with one placing metric.

    Returns:
        `error` (network, model, quantity), median |log(predicted/measured)|, NaN for the placing
        metric; `predicted` (network, model), `judged` and `layers` (network), numbers of layers.

    Raises:
        ValueError: no benches, or placing metrics that differ.
    """
    metrics = {bench.attrs["metric"] for bench in benches}
    if len(metrics) != 1:
        raise ValueError(f"benches must hold one or more of one metric, got {sorted(metrics)}")
    (metric,) = metrics
    rows = []
    for bench in benches:
        for network in dict.fromkeys(bench["network"].values.tolist()):  # in their order
            own = bench.drop_vars("stage", errors="ignore").isel(layer=bench["network"] == network)
            known = own["predicted"].sel(quantity=metric).notnull()
            predicted = known.sum("layer")
            stands = 2 * predicted >= own.sizes["layer"]
            judged = (known | ~stands).all("model") & stands.any()
            error = errors(own).where(judged & stands).median("layer", skipna=True)
            rows.append(
                xr.Dataset(
                    {
                        "error": error.where(error["quantity"] != metric),
                        "predicted": predicted,
                        "judged": judged.sum(),
                        "layers": own.sizes["layer"],
                    }
                ).assign_coords(network=network)
            )
    return xr.concat(rows, dim="network")


def standings(table: xr.Dataset) -> xr.Dataset:
    """On how many networks each theory is best, alone or with others within 10 % of it.

    Args:
        table: of `bench_table`.

    Returns:
        `best`, `shared` and `of` (model, quantity): networks on which it is best alone, on which it
        is one of several, and on which it is judged; `median` of its errors over these.
    """
    error = table["error"]
    near = error <= (1 + _TIE) * error.min("model")
    alone = near.sum("model") == 1
    return xr.Dataset(
        {
            "best": (near & alone).sum("network"),
            "shared": (near & ~alone).sum("network"),
            "of": error.notnull().sum("network"),
            "median": error.median("network", skipna=True),
        }
    )
