"""How much of a measured metric is chance: the bootstrap over samples."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import xarray as xr

from perturb_nc.metrics import collapse_metrics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.quantities import QUANTITIES, quantities
from perturb_nc.validation import ArrayLike, as_features, as_labels, at_least


def bootstrap_intervals(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    *,
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
    on_replicate: Callable[[int], None] | None = None,
) -> xr.DataArray:
    """Percentile intervals of the collapse metrics of layers, over resampled samples.

    Every replicate draws n_k samples of each class with replacement (the class sizes are part of
    the design), the same for all layers, and takes their class statistics; the interval holds the
    middle `level` of the replicates (Efron 1979). Variability within a class that is estimated from
    n samples in d dimensions comes out a share of about 1/n_k too small, in replicates twice.

    Args:
        features: layer → (N, d), as many samples in each.
        labels: (N,) in 0..K-1.
        replicates: number of resamples.
        level: share of them inside the interval, in (0, 1).
        seed: of the resampling.
        on_replicate: called with the number of replicates done.

    Returns:
        (bound, layer, quantity) with bounds "low" and "high", for `compare_layers(intervals=...)`.

    Raises:
        ValueError: no layers, layers of different N, a level outside (0, 1), replicates < 2.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    if not features:
        raise ValueError("features must hold at least one layer, got none")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}; 0.95 is usual")
    at_least(replicates, 2, "replicates")
    layers = {name: as_features(x) for name, x in features.items()}
    sizes = {name: len(x) for name, x in layers.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"features must have one number of samples, got {sizes}")
    y = as_labels(labels, next(iter(sizes.values()))).cpu()
    order, starts = torch.argsort(y, stable=True), torch.bincount(y).cumsum(0) - torch.bincount(y)
    generator = torch.Generator().manual_seed(seed)
    found = np.empty((replicates, len(layers), len(QUANTITIES)))
    for i in range(replicates):
        place = torch.rand(len(y), generator=generator, dtype=torch.float64, device="cpu")
        drawn = order[starts[y] + (place * torch.bincount(y)[y]).long()]
        for j, x in enumerate(layers.values()):
            statistics = ClassStatistics.from_features(x[drawn.to(x.device)], y.to(x.device))
            found[i, j] = quantities(collapse_metrics(statistics))
        if on_replicate is not None:
            on_replicate(i + 1)
    share = (1 - level) / 2
    return xr.DataArray(
        np.quantile(found, [share, 1 - share], axis=0),
        dims=("bound", "layer", "quantity"),
        coords={"bound": ["low", "high"], "layer": list(layers), "quantity": list(QUANTITIES)},
        attrs={"replicates": replicates, "level": level, "seed": seed},
    )
