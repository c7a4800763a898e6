"""A comparison of the shape that `compare_layers` gives, with numbers made up and known."""

import numpy as np
import xarray as xr

QUANTITIES = (
    "nc1_trace", "nc1_span", "nc1", "cdnv", "nc2_etf", "nc2_equinorm", "nc2_equiangular",
    "within_share",
)  # fmt: skip
MODELS = ("path", "pair", "shrinkage", "interpolation", "unchanged")
OFF = dict(zip(MODELS, (0.05, 0.1, 0.2, 0.03, 0.4), strict=True))  # |log(predicted/measured)|
FIRST = "the first layer of its width"
UNREACHED = "the path does not come by its nc1_span"
ALONE = "no other layer of its width"


def comparison(
    name="net",
    layers=("embed", "blocks.0", "blocks.1", "blocks.2", "head"),
    off=OFF,
    intervals=True,
    **attrs,
):
    """Quantities halve from layer to layer; every model is off by its `off`, in the log.

    The last layer has another width and no prediction; the last but one is not on the path.
    """
    count, last = len(layers), len(layers) - 1
    base = np.linspace(1, 2, len(QUANTITIES))
    measured = 0.5 ** np.arange(count)[:, None] * base
    index = np.arange(1, 21)
    spectrum = 0.3 * 0.5 ** np.arange(count)[:, None] / index**1.5
    spectrum[last, 9:] = np.nan  # d = 9 < 20
    factor = np.exp([off[model] for model in MODELS])[:, None, None]
    known = np.ones((len(MODELS), count), bool)
    known[:, [0, last]] = False
    known[0, last - 1] = False
    reason = np.where(known, "", ALONE).astype(object)
    reason[:, 0] = FIRST
    reason[0, last - 1] = UNREACHED
    missing = np.where(known, 1.0, np.nan)[:, :, None]
    later = np.where(known[1], 1.0, np.nan)
    times = np.array([np.nan, *np.linspace(0.4, 1.7, count - 3), np.nan, np.nan])
    held_out = known.copy()
    held_out[3, last - 1] = False  # interpolation is given the last layer of a stage
    data = xr.Dataset(
        {
            "measured": (("layer", "quantity"), measured),
            "predicted": (("model", "layer", "quantity"), measured * factor * missing),
            "spectrum": (("layer", "index"), spectrum),
            "predicted_spectrum": (("model", "layer", "index"), spectrum * factor * missing),
            "held_out": (("model", "layer"), held_out),
            "reason": (("model", "layer"), reason.astype(str)),
            "flow_time": ("layer", times),
            "path_lambda_w": ("layer", later * 0.05),
            "regularization": (("layer", "parameter"), later[:, None] * [0.0512345, 5e-3, 2.0]),
            "standard_error": (("layer", "parameter"), later[:, None] * [0.1, 0.2, 0.05]),
            "residual": ("layer", later * 0.1),
            "unchanged_residual": ("layer", later * 0.4),
            "spectral_ratio": ("layer", later * 0.9),
            "gap": ("layer", later * 1e-16),
            "fit_status": ("layer", np.where(known[1], "transferred", "")),
            "path_status": ("layer", np.where(known[1], "converged", "")),
        },
        coords={
            "layer": list(layers),
            "stage": ("layer", [0] * last + [1]),
            "dim": ("layer", [64] * last + [9]),
            "quantity": list(QUANTITIES),
            "model": list(MODELS),
            "index": index,
            "parameter": ["lambda_w", "lambda_h", "beta"],
        },
        attrs={
            "name": name, "metric": "nc1_span", "lambda_h": 0.0, "align": "false",
            "loss": "squared", "num_classes": 10, "num_samples": 1437,
            "perturb_nc_version": "0.1.0", "parameters_from": "other", "sampling": "",
            "statistics_sha256": "5" * 64, **attrs,
        },
    )  # fmt: skip
    if intervals:
        data = data.assign_coords(bound=["low", "high"])
        low_high = np.array([0.9, 1.1])[:, None, None] * measured
        data["interval"] = (("bound", "layer", "quantity"), low_high)
    return data


THEORIES = {
    "central_path": 0.02, "chain": 0.2, "chain_decay": 0.2, "chain_placed": 0.15,
    "straight_line": None, "straight_line_displacement": None, "straight_line_placed": None,
    "equi_separation": 0.021, "load_curve": 0.1, "deep_linear": 0.3,
    "shrinkage": 0.4, "interpolation": 0.05, "local": 0.01, "unchanged": 0.5,
}  # fmt: skip


def bench(name="net", layers=("blocks.0", "blocks.1", "blocks.2"), off=THEORIES, **attrs):
    """As `theories_of_depth` gives it: every theory is off by its `off`, in the log.

    But for NC2 at the last layer, which is three times as far off.
    """
    quantities = (*QUANTITIES, "directional_cdnv", "discrimination")
    measured = 0.5 ** np.arange(len(layers))[:, None] * np.linspace(1, 2, len(quantities))
    errors = np.array([np.nan if off[m] is None else off[m] for m in off])
    factor = np.exp(np.ones((len(layers), 1, len(quantities))) * errors[:, None])
    factor[-1, :, quantities.index("nc2_etf")] **= 3
    spectrum = measured[:, :1] * 0.3 / np.arange(1, 6)
    spectra = spectrum[:, None] * np.exp(errors)[:, None]
    return xr.Dataset(
        {
            "measured": (("layer", "quantity"), measured),
            "predicted": (("layer", "model", "quantity"), measured[:, None] * factor),
            "spectrum": (("layer", "index"), spectrum),
            "predicted_spectrum": (("layer", "model", "index"), spectra),
            "span_spectrum": (("layer", "index"), spectrum / 2),
            "predicted_span_spectrum": (("layer", "model", "index"), spectra / 2),
            "parameters": (("layer", "model", "parameter"), np.ones((len(layers), len(off), 4))),
            "line_shape": ("layer", [1.25] * len(layers)),
            "path_ratio": ("layer", [1.125] * len(layers)),
            "share": ("layer", np.linspace(0, 1, len(layers) + 1)[1:]),
            "off_line": ("layer", [0.1, 0.3, 0.0][: len(layers)]),
        },
        coords={
            "layer": list(layers),
            "stage": ("layer", [0] * len(layers)),
            "network": ("layer", [name] * len(layers)),
            "model": list(off),
            "quantity": list(quantities),
            "index": np.arange(1, 6),
            "parameter": ["lambda_w", "layer_decay", "beta", "spectral_ratio"],
        },
        attrs={"metric": "nc1_span", "status": "FINISHED", "way_of": "class means", **attrs},
    )
