"""Every theory of depth on one bench: each layer predicted without having been seen."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.study.comparison import TOP, errors
from perturb_nc.study.depth import CALIBRATING, PLACING
from perturb_nc.study.losses import loss_options
from perturb_nc.study.models import CrossEntropyModel, Layer, model_of
from perturb_nc.study.quantities import BENCHED, quantities
from perturb_nc.study.rivals import Prediction, Stage, stages
from perturb_nc.study.straight_line import all_pairs, straightness, straightness_of_means
from perturb_nc.study.theories import THEORIES, Theory
from perturb_nc.theory.clock import Clock, OutOfTimeError, Progress
from perturb_nc.theory.status import Status

# Quantities of the variability and the means in the span of the class means, and the others.
IN_SPAN = (
    "nc1_span", "nc1", "directional_cdnv", "span_eigenvalues", "nc2_etf", "nc2_equinorm",
    "nc2_equiangular", "discrimination",
)  # fmt: skip
OUT_OF_SPAN = ("nc1_trace", "cdnv", "within_share", "top_eigenvalues")
BLOCKS = {"in_span": IN_SPAN, "out_of_span": OUT_OF_SPAN}
PARAMETERS = ("lambda_w", "layer_decay", "beta", "spectral_ratio")
TIE = 0.1  # of the least error

Joints = Mapping[tuple[str, str], JointStatistics]


def theories_of_depth(
    layers: Mapping[str, Layer],
    *,
    name: str,
    loss: str = "squared",
    metric: str = PLACING,
    joints: Joints | None = None,
    theories: Sequence[str] | None = None,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Predict every layer of a network by every theory of depth, each layer left out in its turn.

    A theory is shown the other layers of the same width, and of the layer left out one number at
    most; `THEORIES` says what each makes use of (`perturb_nc.study.theories`).

    Args:
        layers: name → class statistics in order of depth, one set of classes; for cross-entropy
            `LayerSamples`, of which all is measured.
        name: of the network.
        loss: of the central path and the chain: "squared", or "cross-entropy" with a free bias.
        metric: by which layers are placed, as for `calibrate_depth`. It is not judged.
        joints: (first, last) layer of a stage → joint statistics, for the straight line between
            measured ends (`perturb_nc.measure.joint_statistics`). With those of every pair of
            layers it is the way of the samples whose straightness is given.
        theories: names of those to hold against it; by default all of `THEORIES`.
        time_limit: seconds after which no λ_W is tried any more: path and chains, which take nearly
            all of the time, predict nothing of the layers that are left then.
        progress: called as progress(layers, of how many) after every layer.

    Returns:
        A dataset with dimensions layer (with coordinates network and stage; the first layer of
        each stage, which is predicted by none, is left out), model, quantity, index, parameter:
        `measured`, `predicted`, `spectrum`, `predicted_spectrum`, `span_spectrum`,
        `predicted_span_spectrum`, `parameters` (λ_W, λ of every layer, β, and the spectral ratio
        of the certificate), and of the way from the first to the last layer of the stage
        `line_shape`, `path_ratio`, `share` and `off_line` (`Straightness`). NaN where there is
        none. Attributes: metric, status (FINISHED or TIME_LIMIT), loss and way_of ("samples" or
        "class means").
        `bench_table` sums it up.

    Raises:
        ValueError: no stage of two layers, an unknown metric or theory, a time_limit that is not
            > 0, or layers without the samples that the loss needs.

    Source: docs §4.6, 4.8; He & Su 2023; Shi, Pan & Dokmanić 2024; Wang et al. 2023.
    """
    if metric not in CALIBRATING:
        raise ValueError(f"metric must be one of {', '.join(CALIBRATING)}, got {metric!r}")
    if unknown := [name for name in theories or () if name not in THEORIES]:
        raise ValueError(f"theories must be among {', '.join(THEORIES)}, got {unknown}")
    chosen = {name: THEORIES[name] for name in (THEORIES if theories is None else theories)}
    clock = Clock.of(time_limit, progress)
    free = loss_options(loss)[0] != "squared"  # whose path and chain have no bias
    given = {n: model_of(x, loss, bias=free, name=f"layer {n!r}") for n, x in layers.items()}
    measured = {n: model.statistics for n, model in given.items()}
    runs = [stage for stage in stages(measured, metric) if not stage.is_alone]
    if not runs:
        raise ValueError(
            "layers must hold two of one width that follow each other, got widths "
            f"{[s.dim for s in measured.values()]}"
        )
    found, numbers, ways, in_time = [], [], list[xr.Dataset](), True
    for number, stage in enumerate(runs):
        joint = (joints or {}).get((stage.names[0], stage.names[-1]))
        first = given[stage.names[0]]
        start = first if isinstance(first, CrossEntropyModel) else None
        whole = Stage(stage.layers, metric, joint=joint, clock=clock, start=start)
        ways.append(_way(whole, joints or {}))
        for layer in whole.names[1:]:
            predicted, on_time = _predictions(whole.hide([layer]), chosen)
            in_time &= on_time
            found.append(_left_out(whole, layer, predicted))
            numbers.append(number)
            clock.report(len(found), sum(len(stage.names) - 1 for stage in runs))
    status = Status.FINISHED if in_time else Status.TIME_LIMIT
    way = xr.concat(ways, dim="layer", combine_attrs="override")
    table = xr.concat(found, dim="layer").assign(way).assign_attrs(way.attrs)
    table = table.assign_attrs(metric=metric, status=status.name, loss=loss)
    return table.assign_coords(stage=("layer", numbers), network=("layer", [name] * len(numbers)))


def _way(stage: Stage, joints: Joints) -> xr.Dataset:
    """How straight the way through the layers of a stage is, and where each is on it."""
    pairs = {pair: joints[pair] for pair in all_pairs(stage.names) if pair in joints}
    whole = len(pairs) == len(all_pairs(stage.names))
    found = straightness(pairs) if whole else straightness_of_means(stage.layers)
    later = stage.names[1:]
    return xr.Dataset(
        {
            "line_shape": ("layer", [found.line_shape] * len(later)),
            "path_ratio": ("layer", [found.path_ratio] * len(later)),
            "share": ("layer", found.shares[1:]),
            "off_line": ("layer", found.off_line[1:]),
        },
        coords={"layer": later},
        attrs={"way_of": "samples" if whole else "class means"},
    )


def _predictions(view: Stage, theories: Mapping[str, Theory]) -> tuple[dict[str, Prediction], bool]:
    """What every theory says of the hidden layer, and whether all had the time."""
    found, in_time = {}, True
    for name, theory in theories.items():
        try:
            found[name] = theory.predict(view)
        except OutOfTimeError:
            found[name], in_time = Prediction({}, {}), False
    return found, in_time


def _left_out(stage: Stage, layer: str, predicted: Mapping[str, Prediction]) -> xr.Dataset:
    metrics = np.full((len(predicted), len(BENCHED)), np.nan)
    spectra = np.full((len(predicted), 2, TOP), np.nan)
    parameters = np.full((len(predicted), len(PARAMETERS)), np.nan)
    for i, found in enumerate(predicted.values()):
        parameters[i] = [found.parameters.get(p, np.nan) for p in PARAMETERS]
        if layer in found.metrics:
            metrics[i] = quantities(found.metrics[layer], BENCHED)
            spectra[i] = found.spectra[layer][:, :TOP]
    whole, in_span = stage.spectra[layer][:, :TOP]
    return xr.Dataset(
        {
            "measured": ("quantity", quantities(stage.measured[layer], BENCHED)),
            "predicted": (("model", "quantity"), metrics),
            "spectrum": ("index", whole),
            "predicted_spectrum": (("model", "index"), spectra[:, 0]),
            "span_spectrum": ("index", in_span),
            "predicted_span_spectrum": (("model", "index"), spectra[:, 1]),
            "parameters": (("model", "parameter"), parameters),
        },
        coords={
            "layer": layer,
            "model": list(predicted),
            "quantity": list(BENCHED),
            "index": np.arange(1, TOP + 1),
            "parameter": list(PARAMETERS),
        },
    )


def bench_table(benches: Sequence[xr.Dataset]) -> xr.Dataset:
    """Median errors of every theory on every network, on the same layers for all.

    Judged are the layers of which every theory predicts something; one that does so for less than
    half of a network's has failed on it (its errors are NaN there) and takes no layer from the
    others.

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
            known = own["predicted"].notnull().any("quantity")
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
    near = error <= (1 + TIE) * error.min("model")
    alone = near.sum("model") == 1
    return xr.Dataset(
        {
            "best": (near & alone).sum("network"),
            "shared": (near & ~alone).sum("network"),
            "of": error.notnull().sum("network"),
            "median": error.median("network", skipna=True),
        }
    )
