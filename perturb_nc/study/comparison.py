"""The dataset of `compare_layers`: what it holds, the errors in it, and its file."""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from perturb_nc.layer_files import statistics_sha256
from perturb_nc.storage import existing, json_text, say_unchecked, write_json
from perturb_nc.study.quantities import EIGENVALUES, QUANTITIES, log_ratio, quantities
from perturb_nc.study.rivals import RIVALS, Stage
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.validation import instance

MODELS = ("path", "pair", *RIVALS)
TOP = 5  # eigenvalues of Σ_W that the errors count
_FORMAT = "perturb_nc.comparison/1"
_WORDS = ("reason", "fit_status", "path_status")
_DIGEST, _TEXT = "sha256", "OUT"
_BENCH = "bench_"
_PER_LAYER = (
    "flow_time", "path_lambda_w", "residual", "unchanged_residual", "spectral_ratio", "gap",
)  # fmt: skip

_LAYER, _MODEL, _OF = ("layer",), ("model", "layer"), ("layer", "parameter")
_LAYOUT = {
    "measured": (("layer", "quantity"), "f"),
    "spectrum": (("layer", "index"), "f"),
    "predicted": ((*_MODEL, "quantity"), "f"),
    "predicted_spectrum": ((*_MODEL, "index"), "f"),
    "held_out": (_MODEL, "b"),
    "reason": (_MODEL, _TEXT),
    "regularization": (_OF, "f"),
    "standard_error": (_OF, "f"),
    "fit_status": (_LAYER, _TEXT),
    "path_status": (_LAYER, _TEXT),
    **dict.fromkeys(_PER_LAYER, (_LAYER, "f")),
    "layer": (_LAYER, _TEXT),
    "stage": (_LAYER, "i"),
    "dim": (_LAYER, "i"),
}


def empty_comparison(stages: Sequence[Stage]) -> xr.Dataset:
    """Measurements of layers, stage by stage, and predictions still to come."""
    names, layers = (
        [n for stage in stages for n in stage.names],
        [s for stage in stages for s in stage.layers.values()],
    )
    measured = [quantities(m) for stage in stages for m in stage.measured.values()]
    spectra = [v[0] for stage in stages for v in stage.spectra.values()]
    sizes = {"parameter": len(HYPERPARAMETERS), "quantity": len(QUANTITIES)}
    sizes |= {"model": len(MODELS), "layer": len(names), "index": EIGENVALUES}
    alone = {stage.names[0]: "no other layer of its width" for stage in stages if stage.is_alone}
    reasons = {stage.names[0]: "the first layer of its width" for stage in stages} | alone

    def unknown(*dims: str) -> tuple[tuple[str, ...], object]:
        """A variable of NaN."""
        return dims, np.full([sizes[d] for d in dims], np.nan)

    first = layers[0]
    return xr.Dataset(
        {
            "measured": (("layer", "quantity"), np.array(measured)),
            "spectrum": (("layer", "index"), np.array(spectra)),
            "predicted": unknown("model", "layer", "quantity"),
            "predicted_spectrum": unknown("model", "layer", "index"),
            "held_out": (("model", "layer"), np.zeros((len(MODELS), len(names)), bool)),
            "reason": (
                ("model", "layer"),
                np.array([[reasons.get(n, "") for n in names] for _ in MODELS], dtype=object),
            ),
            "regularization": unknown("layer", "parameter"),
            "standard_error": unknown("layer", "parameter"),
            "fit_status": ("layer", np.array([""] * len(names), dtype=object)),
            "path_status": ("layer", np.array([""] * len(names), dtype=object)),
            **{variable: unknown("layer") for variable in _PER_LAYER},
        },
        coords={
            "layer": names,
            "stage": ("layer", [i for i, stage in enumerate(stages) for _ in stage.names]),
            "dim": ("layer", [s.dim for s in layers]),
            "model": list(MODELS),
            "quantity": list(QUANTITIES),
            "index": np.arange(1, EIGENVALUES + 1),
            "parameter": list(HYPERPARAMETERS),
        },
        attrs={
            "num_classes": first.num_classes,
            "num_samples": first.num_samples,
            "perturb_nc_version": version("perturb-nc"),
            "statistics_sha256": statistics_sha256(*layers),
        },
    )


def errors(comparison: xr.Dataset) -> xr.DataArray:
    """|log(predicted/measured)| by model, layer and quantity.

    The last quantity, "top_eigenvalues", is the median over the five largest eigenvalues of Σ_W
    (relative to tr Σ_B), and of a bench "span_eigenvalues" that over the five largest in the span
    of the class means. NaN where there is no prediction or either side is 0.
    """
    found = [_log_error(comparison["predicted"], comparison["measured"])]
    for name, spectrum in (("top_eigenvalues", "spectrum"), ("span_eigenvalues", "span_spectrum")):
        if spectrum in comparison:
            top = _log_error(comparison[f"predicted_{spectrum}"], comparison[spectrum])
            median = top.isel(index=slice(TOP)).median("index", skipna=True)
            found.append(median.expand_dims(quantity=[name]))
    return xr.concat(found, dim="quantity")


def error_table(comparisons: Sequence[xr.Dataset]) -> xr.DataArray:
    """Median error of held-out layers, by network, model and quantity.

    A network's layers are those that path and rivals all predict without having been given them,
    so that every model is judged on the same ones; coordinates `judged` and `layers` count them and
    all that were held out. The pair's row is NaN where its parameters were fitted to these layers.

    Raises:
        ValueError: no comparisons.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> path = pnc.central_path_flow(statistics, lambda_w=0.1, lambda_h=0.0, times=[0.2, 0.5])
        >>> layers = {"a": statistics, "b": path.statistics(0), "c": path.statistics(1)}
        >>> comparison = pnc.compare_layers(layers, name="a path", lambda_w=0.1, pairs=False)
        >>> table = pnc.error_table([comparison])
        >>> table.sel(network="a path", model="path", quantity="nc1").item() < 1e-3
        True

    See Also:
        compare_layers: what it takes. write_report: a page of it.
    """
    remedy = "pass a list of results of compare_layers"
    instance(comparisons, Sequence, "comparisons", remedy)
    if not comparisons:
        raise ValueError("comparisons must hold at least one, got none")
    for comparison in comparisons:
        instance(comparison, xr.Dataset, "comparisons", remedy)
    rows, judged, held_out = [], [], []
    for comparison in comparisons:
        known = comparison["predicted"].sel(quantity="nc1_trace").notnull()
        fair = comparison["held_out"].drop_sel(model="pair").all("model")
        everywhere = (fair & known.drop_sel(model="pair")).all("model")
        error = errors(comparison).where(everywhere & comparison["held_out"])
        rows.append(error.median("layer", skipna=True))
        judged.append(int(everywhere.sum()))
        held_out.append(int(fair.sum()))
    table = xr.concat(rows, dim="network", coords="minimal", compat="override", join="exact")
    return table.assign_coords(
        network=[c.attrs["name"] for c in comparisons],
        judged=("network", judged),
        layers=("network", held_out),
    )


def with_bench(comparison: xr.Dataset, bench: xr.Dataset) -> xr.Dataset:
    """A comparison with the bench of the same network beside it, in variables named `bench_…`.

    Args:
        comparison: of `compare_layers`.
        bench: of `theories_of_depth`, of the same layers.

    Raises:
        ValueError: a bench of other layers.
    """
    layers = comparison["layer"].values.tolist()
    if other := [name for name in bench["layer"].values.tolist() if name not in layers]:
        raise ValueError(f"bench must be of the layers of the comparison, got also {other}")
    own = bench.drop_vars(["stage", "network"]).reindex(layer=layers)
    named = {str(n): f"{_BENCH}{n}" for n in own.variables if n != "layer"}
    attrs = {f"{_BENCH}{name}": value for name, value in bench.attrs.items()}
    return comparison.assign(own.rename(named)).assign_attrs(attrs)


def bench_of(comparison: xr.Dataset) -> xr.Dataset | None:
    """The bench that a comparison has beside it, as `theories_of_depth` gives it; or None."""
    if f"{_BENCH}predicted" not in comparison:
        return None
    kept = [name for name in comparison.data_vars if str(name).startswith(_BENCH)]
    own = comparison[kept].drop_vars("dim", errors="ignore")
    plain = ("layer", "stage")
    own = own.rename({n: str(n).removeprefix(_BENCH) for n in own.variables if n not in plain})
    own = own.isel(layer=own["measured"].notnull().any("quantity"))
    own.attrs = {
        str(name).removeprefix(_BENCH): value
        for name, value in comparison.attrs.items()
        if str(name).startswith(_BENCH)
    }
    network = [comparison.attrs["name"]] * own.sizes["layer"]
    return own.assign_coords(network=("layer", network))


def save_comparison(comparison: xr.Dataset, path: str | Path) -> None:
    """Write a comparison and its digest as JSON, atomically."""
    instance(comparison, xr.Dataset, "comparison", "compare_layers gives one")
    record = {"format": _FORMAT, **comparison.to_dict()}
    write_json(path, {**record, _DIGEST: _digest(record)})


def load_comparison(path: str | Path) -> xr.Dataset:
    """Read a comparison written by `save_comparison`.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that holds something else.
    """
    path = existing(path)
    try:
        record = json.loads(path.read_text(encoding="utf8"))
        wanted = record.pop(_DIGEST, None)
        if wanted is not None and wanted != _digest(record):
            raise ValueError("its checksum differs")
        if record.pop("format", None) != _FORMAT:
            raise ValueError("it has another format")
        if set(record) != {"coords", "attrs", "dims", "data_vars"}:  # as a checksum without a name
            raise ValueError(f"it holds {', '.join(record)}")
        table = xr.Dataset.from_dict(record)
        for name, variable in table.data_vars.items():
            if variable.dtype == object and name not in _WORDS:
                table[name] = variable.astype(float)  # null for NaN
        _check_layout(table)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} holds no comparison ({reason}); write one anew") from error
    if wanted is None:
        say_unchecked(path)
    return table


def _digest(record: dict[str, Any]) -> str:
    # Of the text without escapes, which older versions did not write.
    text = json.dumps(json.loads(json_text(record, indent=None)), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf8")).hexdigest()


def _check_layout(table: xr.Dataset) -> None:
    """ValueError unless dimensions, kinds and names are those of `empty_comparison`."""
    for name, (dims, kinds) in _LAYOUT.items():
        if name == "path_status" and name not in table:  # of older versions
            continue
        found = table[name]
        if found.dims != dims or found.dtype.kind not in kinds:
            raise ValueError(f"{name} is {found.dims} {found.dtype}, not {dims}")
        if kinds == _TEXT and not all(isinstance(word, str) for word in found.values.ravel()):
            raise ValueError(f"{name} holds other things than words")
    for name, values in (("model", MODELS), ("quantity", QUANTITIES)):
        if table[name].values.tolist() != list(values):
            raise ValueError(f"{name} is not {list(values)}")
    if not table.sizes["layer"] or len(set(table["layer"].values.tolist())) < table.sizes["layer"]:
        raise ValueError("layer must hold different names")
    if not all(isinstance(table.attrs[name], str) for name in ("name", "metric")):
        raise ValueError("name and metric must be words")


def _log_error(predicted: xr.DataArray, measured: xr.DataArray) -> xr.DataArray:
    return xr.ufuncs.abs(xr.apply_ufunc(log_ratio, predicted, measured))
