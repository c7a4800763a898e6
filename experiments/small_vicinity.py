"""What the closed form near collapse leaves out, by distance from it; and what real layers are.

Two questions, both answered against the exact optimum of (1):

- error by distance: features H0 are moved along √ρ·frame + t (H0 - √ρ·frame), statistics with them;
  relative errors of weight, means and Σ_W for order 0 (the collapsed optimum, filtered covariance
  0), 1, 2 and 3. On random features and on the last layers of some shipped networks.
- real layers, as they are (t = 1): the last but one layer of each shipped network, and of the
  residual MLPs of `theories_of_depth`, is H0, its last layer what is to be predicted. In the model
  without a bias and in that with one.

What a prediction is allowed to see: H0; the network's weight decay, where it is in the file's name
(λ_W = K·wd), else λ_W = .05; the class means of H0, whose size sets λ_H (√ρ = mean singular value,
of the centred ones with a bias);
and NC1 of the last layer, which sets β on a grid by the closed form. So NC1 is fitted; ÑC1 and NC2
of the last layer are predicted.
"""

import math
import re
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

import perturb_nc as pnc
from experiments import theories_of_depth
from experiments.command import RESULTS, SHIPPED, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from perturb_nc.storage import write_json

METRICS = ("nc1", "nc1_trace", "nc2_etf")
ORDERS = (1, 2, 3)
PARTS = ("weight", "means", "within")
FOLDER = RESULTS / "small_vicinity"


@dataclass(frozen=True)
class Config:
    """A minute or two on one CPU thread."""

    files: tuple[str, ...] = SHIPPED
    moved: tuple[str, ...] = (
        "depth_calibration/digits-res-bn-wd0.001",
        "every_layer/convnet-fashion_mnist-seed0",
        "every_layer/resnet18-cifar10-seed0",
        "public_resnet/layers",
    )
    distances: tuple[float, ...] = (0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0)
    betas: tuple[float, ...] = tuple(10 ** (i / 20 - 3) for i in range(101))
    trained: theories_of_depth.Config = field(default_factory=theories_of_depth.Config)
    default_lambda_w: float = 0.05
    beta: float = 1.0  # of the errors by distance


def moved(s: pnc.ClassStatistics, anchor: torch.Tensor, t: float) -> pnc.ClassStatistics:
    """Statistics of anchor + t (H0 - anchor), where each sample's anchor is that of its class."""
    return s.moved(anchor + t * (s.means - anchor), t**2 * s.within)


def matched_lambda_h(s: pnc.ClassStatistics, lambda_w: float, *, bias: bool = False) -> float:
    """λ_H at which √ρ is the mean singular value of the class means: √ρ² = (1-c0)√(λ_W/λ_H).

    With a bias that of the centred ones, of which one is 0 and does not count.
    """
    means = s.centered_means if bias else s.means
    size = torch.linalg.svdvals(means)[: s.num_classes - bias].mean().item() ** 2
    low, high = -60.0, -math.log(lambda_w)
    for _ in range(100):
        middle = 0.5 * (low + high)
        h = math.exp(middle)
        rho = (1 - math.sqrt(lambda_w * h)) * math.sqrt(lambda_w / h)
        low, high = (middle, high) if rho > size else (low, middle)
    return math.exp(low)


def errors_by_distance(s: pnc.ClassStatistics, config: Config) -> dict[str, Any]:
    """Relative errors of every order, and whether each first-order prediction says it is small."""
    setting = {
        "lambda_w": config.default_lambda_w,
        "lambda_h": matched_lambda_h(s, config.default_lambda_w),
        "beta": config.beta,
    }
    first = pnc.small_vicinity(s, **setting)
    anchor = first.size * first.frame
    collapsed = {
        "weight": math.sqrt(setting["lambda_h"] / setting["lambda_w"]) * anchor,
        "means": anchor,
        "within": torch.zeros_like(s.within),
    }
    rows = []
    for t in config.distances:
        here = moved(s, anchor, t)
        exact = pnc.minimize(pnc.NearCollapseProblem(here, **setting))
        orders = {order: pnc.small_vicinity(here, **setting, order=order) for order in ORDERS}
        found = {0: collapsed}
        found |= {o: dict(zip(PARTS, _parts(p), strict=True)) for o, p in orders.items()}
        truth = dict(zip(PARTS, _parts(exact), strict=True))
        errors = {
            name: [((found[o][name] - truth[name]).norm() / truth[name].norm()).item()
                   for o in (0, *ORDERS)]
            for name in PARTS
        }  # fmt: skip
        rows.append(
            {
                "t": t,
                "distance": orders[1].distance,
                "errors": errors,
                "remainder": orders[1].remainder,
                "status": orders[1].status.name,
                "exact": exact.status.name,
            }
        )
    return {"setting": setting, "rows": rows}


def _parts(found: Any) -> tuple[torch.Tensor, ...]:
    return found.weight, found.statistics.means, found.statistics.within


def real_layer(path: Path, config: Config, *, bias: bool = False) -> dict[str, Any]:
    """The last layer of a network predicted from the one before, to first order and exactly."""
    layers = pnc.load_layers(path)
    decay = re.search(r"-head([\d.]+\d)", path.stem) or re.search(r"-wd([\d.]+\d)", path.stem)
    wd = float(decay[1]) if decay else None
    return last_layer(layers, f"{path.parent.name}/{path.stem}", wd, config, bias=bias)


def last_layer(
    layers: dict[str, pnc.ClassStatistics],
    name: str,
    decay: float | None,
    config: Config,
    *,
    bias: bool,
) -> dict[str, Any]:
    """The same of layers; `decay` is that of the head, if it is known."""
    (before, h0), (after, last) = list(layers.items())[-2:]
    if h0.means.shape != last.means.shape:  # a head: the features that it reads are the last
        (before, h0), (after, last) = list(layers.items())[-3:-1]
    lambda_w = config.default_lambda_w if decay is None else h0.num_classes * decay
    h = matched_lambda_h(h0, lambda_w, bias=bias)
    measured = pnc.collapse_metrics(last)
    betas = list(config.betas)
    batch = pnc.small_vicinity_batch(h0, lambda_w=lambda_w, lambda_h=h, beta=betas, bias=bias)
    misfit = (batch.metrics["nc1"].log() - math.log(measured.nc1)).abs()
    best = misfit.nan_to_num(math.inf).argmin()  # far from collapse two orders of NC1 can be < 0
    setting = {"lambda_w": lambda_w, "lambda_h": h, "beta": config.betas[int(best)]}
    first = pnc.small_vicinity(h0, **setting, bias=bias)
    exact = pnc.minimize(pnc.NearCollapseProblem(h0, **setting, bias=bias))
    optimum = pnc.collapse_metrics(exact.statistics, exact.weight)
    sides = {
        "before": pnc.collapse_metrics(h0), "measured": measured,
        "first order": first.metrics, "optimum": optimum,
    }  # fmt: skip
    return {
        "network": name,
        "layers": [before, after],
        "bias": bias,
        "setting": setting,
        "decay_known": decay is not None,
        "metrics": {n: {m: getattr(of, m) for m in METRICS} for n, of in sides.items()},
        "distance": first.distance,
        "remainder": first.remainder,
        "spectral_ratio": first.certificate.spectral_ratio,
        "status": first.status.name,
        "optimum": exact.status.name,
        "optimum_is_global": exact.certificate.is_global,
    }


def trained(config: Config, loss: str, batch_norm: bool, seed: int) -> list[dict[str, Any]]:
    """`last_layer` of a residual MLP that is trained for it, without a bias and with one."""
    joints, _ = theories_of_depth.network(config.trained, loss, batch_norm, seed)
    layers = theories_of_depth.layers_of(joints)
    name = theories_of_depth.name_of(loss, batch_norm, seed)
    decay = config.trained.weight_decay
    return [last_layer(layers, name, decay, config, bias=bias) for bias in (False, True)]


def rows_of(config: Config, folder: Path) -> list[dict[str, Any]]:
    """Of every network, from its file or trained now."""
    rows = []
    for path in (p for pattern in config.files for p in sorted(RESULTS.glob(pattern))):

        def make(_: Path, path: Path = path) -> list[dict[str, Any]]:
            return [real_layer(path, config, bias=bias) for bias in (False, True)]

        rows += kept(folder / f"{path.parent.name}-{path.stem}.json", make)
    of = config.trained
    for own in product(of.losses, (False, True), of.seeds):
        name = theories_of_depth.name_of(*own)
        rows += kept(folder / f"{name}.json", lambda _, own=own: trained(config, *own))
    return rows


def turning_points(config: Config) -> dict[str, Any]:
    """|∂_H| - |∂_W| of ÑC1 over (λ_W, λ_H) for some β; NC1 and NC2 do not depend on β."""
    axis = [10 ** (i / 10 - 4) for i in range(51)]
    w, h = torch.meshgrid(*[torch.tensor(axis, dtype=torch.float64)] * 2, indexing="ij")
    found = {}
    for beta in (0.01, 0.1, 1.0):
        for outside in (0.0, 0.5):
            turn = pnc.theory.stronger_decay(lambda_w=w, lambda_h=h, beta=beta, outside=outside)
            found[f"{beta:g}, {outside:g}"] = _rounded(turn["nc1_trace"])
    everywhere = pnc.theory.stronger_decay(lambda_w=w, lambda_h=h, beta=1.0)
    always = {name: _rounded(everywhere[name]) for name in ("nc1", "nc2_etf")}
    return {"axis": axis, "nc1_trace": found, **always}


def _rounded(values: torch.Tensor) -> list[list[float]]:
    return [[float(f"{v:.4g}") for v in row] for row in values.tolist()]


def random_features() -> pnc.ClassStatistics:
    """Gaussian class means and samples, K = 10, d = 64."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % 10
    means = torch.randn(10, 64, generator=generator, dtype=torch.float64)
    noise = torch.randn(1000, 64, generator=generator, dtype=torch.float64)
    return pnc.ClassStatistics.from_features((means[labels] + 0.5 * noise) / 8, labels)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: H0 / measured / first order / optimum of each metric, and whether it is small."""
    head = (
        "network",
        "bias",
        "λ_W",
        "β",
        "NC1",
        "ÑC1",
        "NC2",
        "remainder W, M, Σ_W",
        "r",
        "status",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [" / ".join(_short(side[m]) for side in row["metrics"].values()) for m in METRICS]
        star = "" if row["decay_known"] else "*"
        name = row["network"].removesuffix("-seed0")
        setting = [_short(row["setting"][p]) for p in ("lambda_w", "beta")]
        remainder = ", ".join(_short(v) for v in row["remainder"].values())
        bias = "yes" if row["bias"] else "no"
        cells = [name, bias, setting[0] + star, setting[1], *cells, remainder]
        cells += [_short(row["spectral_ratio"]), row["status"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:.2g}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2g}"


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "two networks, two distances")
    config = Config()
    if chosen.quick:
        one = "depth_calibration/digits-res-bn-wd0.001"
        few = theories_of_depth.Config(losses=("mse",), seeds=(0,), blocks=2, epochs=2, samples=200)
        config = replace(
            config, files=(f"{one}.safetensors",), moved=(one,), distances=(0.01, 0.1), trained=few
        )
    if is_finished(chosen.output / "result.json", config):
        return
    rows = rows_of(config, runs_folder(chosen.output, config))
    starts = {"random": random_features()}
    for name in config.moved:
        layers = pnc.load_layers(RESULTS / f"{name}.safetensors")
        starts[name] = [s for s in layers.values() if s.dim >= 2 * s.num_classes][-1]
    distance = {name: errors_by_distance(s, config) for name, s in starts.items()}
    result = {"distance": distance, "layers": rows, "turning": turning_points(config)}
    write_json(chosen.output / "result.json", {"manifest": manifest(config), **result})
    print(table(rows))


if __name__ == "__main__":
    main()
