"""Draw the map of NC1 over (λ_W, λ_H) from experiments/results/regularization_map/map.json."""

import xarray as xr
from matplotlib.figure import Figure
from style import RESULTS, read, write

from perturb_nc.show.maps import plot_maps

RESULT = RESULTS / "regularization_map" / "map.json"


def draw(result: dict) -> Figure:
    """As `perturb-nc plot` draws a sweep."""
    title = "H0: last block of a public ResNet-18 on CIFAR-10 (K = 10, d = 512)"
    return plot_maps(xr.Dataset.from_dict(result["dataset"]), metric="nc1", title=title)


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
