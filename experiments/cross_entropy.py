"""Networks trained on cross-entropy: does the near-collapse model do better with their own loss?

Residual MLPs on digits and Fashion-MNIST (trained here), three public networks for CIFAR-10, and
the ResNet with nine blocks of one width of `equal_width`. A block's output H is put after the
output H0 of the block before (scaled to |H0|²/N = 1), both on one subsample with the proportions
of the classes, under the squared loss and under cross-entropy, with a bias and λ_H = 0:

- known: λ_W is K times the weight decay, in the units of the scaled features; β is set by NC1, and
  all else is predicted. Not for public networks, whose weight decay is not known.
- fit: λ_W and β from class means and Σ_W (`fit_regularization`): what the model can explain.
- two: of the last pair of some networks, λ_W on a grid and β so that NC1 agrees, with the least
  error of ÑC1. The growth of the features does not enter, as it does in the fit.

Rivals: H0 as it is (sees nothing), and Σ_W0 times a factor that is set by NC1.

Of `equal_width` class statistics are shipped and no samples: Gaussian ones with exactly these
statistics stand in for them. What that changes is measured on the other networks, at their fits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scipy.optimize import brentq
from torch import nn

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import data_for
from perturb_nc.layer_samples import stratified_rows
from perturb_nc.networks import Dataset, ResidualMLP, TrainingConfig, batches, train
from perturb_nc.networks.public import public_inputs, public_network
from perturb_nc.storage import read_tensors, replacing, write_json, write_tensors
from perturb_nc.study.models import Model, model_of

FOLDER = RESULTS / "cross_entropy"
COMPARED = ("nc1", "nc1_trace", "nc1_span", "nc2_etf", "cdnv", "growth")
LOSSES = ("squared", "cross-entropy")
RIVALS = ("unchanged", "shrinkage")
BATCH = 250


@dataclass(frozen=True)
class MLP:
    """A residual MLP that is trained here."""

    data: str
    batch_norm: bool
    width: int
    epochs: int
    learning_rate: float
    blocks: int = 5
    weight_decay: float = 1e-3

    @property
    def name(self) -> str:
        """Short and unique."""
        norm = "-bn" if self.batch_norm else ""
        return f"{self.data}-res{self.blocks}{norm}-wd{self.weight_decay:g}"

    def trained(self, config: "Config", checkpoint: Path) -> tuple[nn.Module, Dataset, list[str]]:
        """The network, its data and the layers that are compared."""
        data = data_for(self.data, config.images)
        torch.manual_seed(config.seed)
        size, k = data.inputs[0].numel(), data.num_classes
        model = ResidualMLP(size, self.width, self.blocks, k, batch_norm=self.batch_norm)
        epochs = self.epochs
        training = TrainingConfig(
            epochs=epochs,
            batch_size=64,
            learning_rate=self.learning_rate,
            milestones=(epochs // 2, 3 * epochs // 4) if epochs >= 4 else (),
            weight_decay=self.weight_decay,
            loss="cross_entropy",
            seed=config.seed,
        )
        train(model, data, training, checkpoint=checkpoint)
        return model, data, ["embed", *(f"blocks.{i}" for i in range(self.blocks))]


@dataclass(frozen=True)
class Shipped:
    """A network of which class statistics are shipped."""

    file: str
    name: str
    weight_decay: float

    def stand_ins(self, config: "Config") -> dict[str, pnc.LayerSamples]:
        """Gaussian samples with the class statistics of each layer."""
        layers = pnc.load_layers(RESULTS / self.file)
        return {name: stand_in(s, config.samples, config.seed) for name, s in layers.items()}


@dataclass(frozen=True)
class Public:
    """A network of `networks.public`: its last blocks of one width."""

    name: str
    layers: tuple[str, ...]
    images: int = 10_000  # that the subsample is drawn from
    weight_decay: float | None = None

    def trained(self, config: "Config", checkpoint: Path) -> tuple[nn.Module, Dataset, list[str]]:
        """The network, its data and the layers that are compared."""
        data = public_inputs(self.name)
        rows = slice(config.images or self.images)
        part = Dataset(data.name, data.inputs[rows], data.labels[rows], data.num_classes)
        return public_network(self.name), part, list(self.layers)


@dataclass(frozen=True)
class Config:
    """The networks, and how many samples and pairs of blocks of each are looked at."""

    networks: tuple[MLP | Public | Shipped, ...] = field(
        default_factory=lambda: (
            MLP("digits", False, 64, 150, 0.05),
            MLP("digits", True, 64, 150, 0.05),
            MLP("fashion_mnist", False, 128, 15, 0.02),
            Public("resnet56_cifar10", tuple(f"blocks.{i}" for i in range(18, 27))),
            Public("vgg16_cifar10", ("blocks.11", "blocks.12", "blocks.13")),
            Public("resnet18_cifar10", ("blocks.6", "blocks.7")),
            Shipped(
                "equal_width/resnet-cifar10-cross_entropy-seed0.safetensors",
                "cifar10-equal-width",
                5e-4,
            ),
        )
    )
    samples: int = 500
    pairs: int = 4
    ends: tuple[float, float] = (1e-2, 1e4)  # of β where it is set by NC1
    two: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # λ_W
    two_of: tuple[str, ...] = (
        "digits-res5-wd0.001", "fashion_mnist-res5-wd0.001", "resnet56_cifar10",
        "cifar10-equal-width", "digits-res2-wd0.001",
    )  # fmt: skip
    images: int | None = None
    seed: int = 0


def stand_in(statistics: pnc.ClassStatistics, samples: int, seed: int) -> pnc.LayerSamples:
    """Gaussian samples, as many of each class, whose class means and Σ_W are those given.

    Class variances differ from the mean one by chance alone. `samples` must exceed d + K.
    """
    k, d = statistics.num_classes, statistics.dim
    labels = torch.arange(max(samples, 2 * (d + k)) // k * k) % k
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(labels), d, generator=generator, dtype=torch.float64)
    drawn = pnc.ClassStatistics.from_features(noise, labels)
    values, vectors = torch.linalg.eigh(statistics.within)
    root = vectors * values.clamp(min=0.0).sqrt()
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(drawn.within), (noise - drawn.means[labels]).mT, upper=False
    )
    return pnc.LayerSamples(statistics.means[labels] + white.mT @ root.mT, labels)


def samples_of(config: Config, network: MLP | Public | Shipped, folder: Path) -> dict[str, Any]:
    """Features of a subsample at every layer; trained and measured first where that is not done."""
    if isinstance(network, Shipped):
        return network.stand_ins(config)
    path = folder / f"{network.name}.safetensors"
    if not path.is_file():
        model, data, names = network.trained(config, folder / f"{network.name}.pt")
        rows = stratified_rows(data.labels, min(config.samples, len(data)))
        part = Dataset(data.name, data.inputs[rows], data.labels[rows], data.num_classes)
        features, labels = pnc.collect_features(model, batches(part, BATCH), layers=names)
        features = {f"{i:02}/{name}": features[name] for i, name in enumerate(names)}
        write_tensors(path, {**features, "labels": labels}, {})
    tensors, _ = read_tensors(path)
    labels = tensors.pop("labels")
    return {k.split("/")[1]: pnc.LayerSamples(x, labels) for k, x in sorted(tensors.items())}


def one(config: Config, network: MLP | Public | Shipped, folder: Path) -> Any:
    """Predict blocks from the ones before."""
    layers = samples_of(config, network, folder)
    chosen = list(pairwise(layers))
    step = max(1, math.ceil(len(chosen) / config.pairs))
    pairs = {}
    for before, after in chosen[::-1][::step][::-1]:  # the last always
        path = folder / f"{network.name}-{after}.json"
        pairs[after] = kept(
            path,
            lambda _, a=before, b=after: pair(config, layers[a], layers[b], network.weight_decay),
        )
    return {"name": network.name, "weight_decay": network.weight_decay, "pairs": pairs}


def pair(
    config: Config, before: pnc.LayerSamples, after: pnc.LayerSamples, weight_decay: float | None
) -> dict[str, Any]:
    """Both models and the rivals on one block."""
    size = before.features.double().square().sum(1).mean().sqrt()
    x, y = scaled(before, after)
    reference, observed = x.statistics, y.statistics
    measured = outcome(observed, reference)
    factor = measured["nc1"] / pnc.collapse_metrics(reference).nc1
    shrunk = reference.moved(reference.means, factor * reference.within)
    record: dict[str, Any] = {
        "measured": measured,
        "unchanged": outcome(reference, reference),
        "shrinkage": outcome(shrunk, reference),
    }
    for loss in LOSSES:
        model = model_of(x, loss, bias=True)
        record[loss] = {"fit": fit(x, y, loss)}
        if weight_decay is not None:
            known = weight_decay * x.num_classes / size.item() ** 2
            record[loss]["known"] = set_by_nc1(config, model, known, measured["nc1"])
    found = record["cross-entropy"]["fit"]
    other = model_of(stand_in(reference, config.samples, config.seed), "cross-entropy", bias=True)
    problem = other.problem(lambda_w=found["lambda_w"], lambda_h=0.0, beta=found["beta"])
    record["stand_in"] = described(pnc.minimize(problem), reference)
    return record


def two(config: Config, network: MLP | Public | Shipped, folder: Path) -> dict[str, Any]:
    """Both models on the last pair, set by NC1 and ÑC1."""
    *_, before, after = samples_of(config, network, folder).values()
    x, y = scaled(before, after)
    measured = outcome(y.statistics, x.statistics)
    record: dict[str, Any] = {"measured": measured}
    for loss in LOSSES:
        model = model_of(x, loss, bias=True)
        found = [set_by_nc1(config, model, value, measured["nc1"]) for value in config.two]
        costs = [error(f, measured, "nc1_trace") + error(f, measured, "nc1") for f in found]
        best = found[costs.index(min(costs))]
        record[loss] = best | {
            "lambda_w_at_end": best["lambda_w"] in (config.two[0], config.two[-1])
        }
    return record


def scaled(
    before: pnc.LayerSamples, after: pnc.LayerSamples
) -> tuple[pnc.LayerSamples, pnc.LayerSamples]:
    """Both in units in which |H0|²/N = 1."""
    size = before.features.double().square().sum(1).mean().sqrt()
    first, second = (layer.features.double() / size for layer in (before, after))
    return pnc.LayerSamples(first, before.labels), pnc.LayerSamples(second, after.labels)


def fit(before: pnc.LayerSamples, after: pnc.LayerSamples, loss: str) -> dict[str, Any]:
    """λ_W and β from class means and Σ_W, λ_H = 0."""
    found = pnc.fit_regularization(before, after, loss=loss, lambda_h=0.0, bias=True)
    return {
        **described(found.solution, before.statistics),
        "fit_status": found.status.name,
        "at_bound": found.at_bound,
        "residual": found.residual,
        "unchanged_residual": found.unchanged,
    }


def set_by_nc1(config: Config, model: Model, lambda_w: float, wanted: float) -> dict[str, Any]:
    """The optimum with λ_W given and the β at which NC1 is as measured, or an end of β's range."""

    def solved(log_beta: float) -> pnc.Solution:
        beta = math.exp(log_beta)
        return pnc.minimize(model.problem(lambda_w=lambda_w, lambda_h=0.0, beta=beta))

    def excess(log_beta: float) -> float:
        nc1 = pnc.collapse_metrics(solved(log_beta).statistics).nc1
        return math.log(nc1 / wanted) if nc1 > 0 else -math.inf

    low, high = (math.log(end) for end in config.ends)
    if excess(high) < 0:
        at = high
    elif excess(low) > 0:
        at = low
    else:
        at = crossing(excess, low, high)
    return {**described(solved(at), model.statistics), "at_end": at in (low, high)}


def crossing(excess: Callable[[float], float], low: float, high: float) -> float:
    """Where excess rises through 0."""
    while not math.isfinite(excess(low)):
        low = 0.5 * (low + high)
    return float(brentq(excess, low, high, xtol=1e-3, rtol=1e-6)) if excess(low) < 0 else low


def described(solution: pnc.Solution, reference: pnc.ClassStatistics) -> dict[str, Any]:
    """Parameters, certificate and metrics of an optimum."""
    problem: Any = solution.problem
    return {
        "lambda_w": problem.lambda_w,
        "beta": problem.beta,
        "status": solution.status.name,
        "spectral_ratio": solution.certificate.spectral_ratio,
        **outcome(solution.statistics, reference),
    }


def outcome(statistics: pnc.ClassStatistics, reference: pnc.ClassStatistics) -> dict[str, float]:
    """What is compared; growth is tr Σ_B over that of H0."""
    metrics = pnc.collapse_metrics(statistics).as_dict()
    growth = statistics.between.trace() / reference.between.trace()
    return {**{name: metrics[name] for name in COMPARED[:-1]}, "growth": growth.item()}


def error(predicted: dict[str, float], measured: dict[str, float], name: str) -> float:
    """|log(predicted/measured)|."""
    if not predicted[name] > 0:
        return math.inf
    return abs(math.log(predicted[name] / measured[name]))


def rows_of(network: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Model → its predictions at every pair, rivals first."""
    pairs = list(network["pairs"].values())
    found = {rival: [p[rival] for p in pairs] for rival in RIVALS}
    for how in ("known", "fit"):
        for loss in LOSSES:
            if all(how in p[loss] for p in pairs):
                found[f"{loss}, {how}"] = [p[loss][how] for p in pairs]
    return found


def table(networks: list[dict[str, Any]]) -> str:
    """Markdown: median errors over the pairs of every network."""
    lines = [
        "Median |log(predicted/measured)| over pairs of blocks. `known`: λ_W = K·wd, β set by NC1; "
        "`shrinkage`: Σ_W0 times a factor set by NC1; `fit`: λ_W and β from class means and Σ_W, "
        "so that its errors are of an explanation. `misfit`: of the fit, over that of H0 itself.",
        "",
        f"| network | model | {' | '.join(COMPARED)} | λ_W at a bound | misfit | r ≤ 1 |",
        f"|---|---|{'---|' * (len(COMPARED) + 3)}",
    ]
    for network in networks:
        pairs = list(network["pairs"].values())
        for title, predictions in rows_of(network).items():
            sides = list(zip(predictions, (p["measured"] for p in pairs), strict=True))
            cells = [f"{median(error(p, q, m) for p, q in sides):.2f}" for m in COMPARED]
            bound = misfit = proved = "–"
            if title.endswith("fit"):
                at = sum("lambda_w" in p["at_bound"] for p in predictions)
                bound = f"{at} of {len(pairs)}"
                misfit = (
                    f"{median(p['residual'] / p['unchanged_residual'] for p in predictions):.2f}"
                )
            if title not in RIVALS:
                proved = f"{sum(p['spectral_ratio'] <= 1 for p in predictions)} of {len(pairs)}"
            own = [network["name"], title, *cells, bound, misfit, proved]
            lines.append(f"| {' | '.join(own)} |")
    far = [
        error(p["stand_in"], p["cross-entropy"]["fit"], m)
        for network in networks
        for p in network["pairs"].values()
        for m in COMPARED
        if network["name"] != "cifar10-equal-width"
    ]
    if far:
        lines += [
            "",
            "With Gaussian samples of the same class statistics in place of the network's, at the "
            f"fits, logs of metrics change by {median(far):.3f} (median), {max(far):.2f} at most.",
        ]
    return "\n".join(lines) + "\n"


def two_table(last: dict[str, dict[str, Any]]) -> str:
    """Markdown: metrics of the last pair, measured and set by two of them."""
    lines = [
        "The last pair of some networks, λ_W and β set by NC1 and ÑC1 (`two`); * at an end of its "
        "range.",
        "",
        f"| network | | λ_W | β | {' | '.join(COMPARED)} | r |",
        f"|---|---|---|---|{'---|' * (len(COMPARED) + 1)}",
    ]
    for name, record in last.items():
        for side in ("measured", *LOSSES):
            own = record[side]
            cells = [f"{own[m]:.3g}" for m in COMPARED]
            set_to = ["", "", ""]
            if side != "measured":
                ends = own["lambda_w_at_end"], own["at_end"]
                values = own["lambda_w"], own["beta"]
                set_to = [f"{v:.3g}{'*' * e}" for v, e in zip(values, ends, strict=True)]
                set_to.append(f"{own['spectral_ratio']:.2g}")
            lines.append(f"| {' | '.join([name, side, *set_to[:2], *cells, set_to[2]])} |")
    return "\n".join(lines) + "\n"


def summary(networks: list[dict[str, Any]]) -> str:
    """Markdown for the page: what each model says of ÑC1 and of growth, and where the fits end.

    Errors of ÑC1 are medians of |log(predicted/measured)|; growth of tr Σ_B is the median itself.
    """
    models = ("unchanged", "shrinkage", *(f"{loss}, known" for loss in LOSSES))
    fits = [f"{loss}, fit" for loss in LOSSES]
    lines = [
        "| network | ÑC1: unchanged | shrinkage | squared, known | cross-entropy, known | squared, "
        "fit | cross-entropy, fit | growth: measured | squared, fit | cross-entropy, fit | λ_W at "
        "a bound: squared | cross-entropy |",
        f"|---|{'---|' * 11}",
    ]
    for network in networks:
        pairs, rows = list(network["pairs"].values()), rows_of(network)
        measured = [p["measured"] for p in pairs]
        errors = ["–" for _ in (*models, *fits)]
        for place, model in enumerate((*models, *fits)):
            if model in rows:
                sides = zip(rows[model], measured, strict=True)
                errors[place] = f"{median(error(p, q, 'nc1_trace') for p, q in sides):.2f}"
        growth = [
            f"{median(p['growth'] for p in found):.2f}"
            for found in (measured, *(rows[m] for m in fits))
        ]
        bounds = [
            f"{sum('lambda_w' in p['at_bound'] for p in rows[m])} of {len(pairs)}" for m in fits
        ]
        lines.append(f"| {' | '.join([network['name'], *errors, *growth, *bounds])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "one network of two blocks, few epochs and samples")
    config = Config()
    if chosen.quick:
        small = MLP("digits", False, 16, 5, 0.05, blocks=2)
        config = replace(config, networks=(small,), samples=60, images=300)
    path = chosen.output / "result.json"
    if is_finished(path, config):
        return
    folder = runs_folder(chosen.output, config)
    networks = [
        kept(folder / f"{n.name}.json", lambda _, n=n: one(config, n, folder))
        for n in config.networks
    ]
    last = {
        n.name: kept(folder / f"{n.name}-two.json", lambda _, n=n: two(config, n, folder))
        for n in config.networks
        if n.name in config.two_of
    }
    write_json(path, {"manifest": manifest(config), "networks": networks, "two": last})
    with replacing(chosen.output / "table.md") as temporary:
        text = f"{table(networks)}\n{two_table(last)}"
        temporary.write_text(text, encoding="utf8")
    print(f"wrote {path} and table.md")


if __name__ == "__main__":
    main()
