"""Figures from results; nothing is computed here."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from perturb_nc.study.compare import LayerPrediction

MEASURED, PREDICTED = "#1b3a5c", "#d1495b"
_PANELS = {
    "nc1_trace": r"$\widetilde{\mathrm{NC1}} = \mathrm{tr}\,\Sigma_W / \mathrm{tr}\,\Sigma_B$",
    "nc1": r"$\mathrm{NC1} = \mathrm{tr}(\Sigma_W \Sigma_B^\dagger) / K$",
    "nc2_etf": "NC2: distance to a simplex ETF",
    "cdnv": "CDNV: class-distance normalised variance",
}


def plot_layers(predictions: Mapping[str, LayerPrediction], *, title: str) -> Figure:
    """Metrics by depth, measured, and what the model predicts after each layer.

    The prediction made from a layer is drawn at the layer that follows, where the measurement to
    compare it with stands, and is joined to the layer it starts from.
    """
    names = list(predictions)
    places = range(len(names) + 1)
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).flat
    for axis, (metric, name) in zip(axes, _PANELS.items(), strict=True):
        measured = [getattr(p.measured, metric) for p in predictions.values()]
        predicted = [getattr(p.predicted, metric) for p in predictions.values()]
        for place, (start, end) in enumerate(zip(measured, predicted, strict=True)):
            axis.plot([place, place + 1], [start, end], color=PREDICTED, lw=1, alpha=0.6)
        axis.plot(places[:-1], measured, "o-", color=MEASURED, ms=5, label="measured")
        label = "predicted from the layer before"
        axis.plot(places[1:], predicted, "D", color=PREDICTED, ms=5, label=label)
        axis.set_title(name, fontsize=10, loc="left")
        axis.grid(axis="y", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xticks(places, [*names, "(next)"], rotation=30, ha="right", fontsize=8)
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure
