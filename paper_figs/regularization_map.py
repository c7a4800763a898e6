"""Draw the map of NC1 over (λ_W, λ_H) from experiments/results/regularization_map/map.json."""

import xarray as xr
from matplotlib.figure import Figure
from style import RESULTS, read, write

from perturb_nc.show.maps import plot_maps

RESULT = RESULTS / "regularization_map" / "map.json"
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.12, 0.14)


def draw(result: dict) -> Figure:
    """As `perturb-nc plot` draws a sweep, with lines of equal NC1."""
    dataset = xr.Dataset.from_dict(result["dataset"])
    title = "H0: last block of a public ResNet-18 on CIFAR-10 (K = 10, d = 512)"
    figure = plot_maps(dataset, metric="nc1", title=title)
    w, h = dataset["lambda_w"].values, dataset["lambda_h"].values
    for axis, beta in zip(figure.axes, dataset["beta"].values, strict=False):
        values = dataset["nc1"].sel(beta=beta).values.T
        lines = axis.contour(w, h, values, LEVELS, colors="black", linewidths=0.6)
        axis.clabel(lines, fontsize=7, fmt="%g")
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
