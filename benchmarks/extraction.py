"""Statistics of every layer against plain loops: `python -m benchmarks.extraction [--quick]`.

The loops are what a user writes first: register a hook, keep the features, concatenate, then class
by class means and covariance in float64. One makes a forward pass per layer, the other keeps all
layers of one pass. Accumulators keep none, but need a second pass for the covariance. All must
agree to 1e-6, and a row says how many bytes of features it held.

A last part sets all layers of a ResNet-18 beside a forward pass alone, in time and in memory.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import perturb_nc as pnc
from benchmarks.extraction_network import Network, beside_forward, network_table
from benchmarks.machine import command_line, machine
from perturb_nc import collect_statistics
from perturb_nc.networks import MLP, ResNet

OURS = "collect_statistics"
Batches = list[tuple[Tensor, Tensor]]
Found = dict[str, pnc.ClassStatistics]


@dataclass(frozen=True)
class Config:
    """Sizes: of the MLP (width, layers, samples), and of the ResNet (width, samples)."""

    mlp: tuple[int, int, int] = (512, 6, 20_000)
    resnet: tuple[int, int] = (16, 3_000)
    batch_size: int = 250
    num_classes: int = 10
    repetitions: int = 3
    threads: int = 1
    network: Network = field(default_factory=Network)
    seed: int = 0


QUICK = Config(
    mlp=(16, 2, 100),
    resnet=(4, 60),
    batch_size=20,
    repetitions=1,
    network=Network(width=8, samples=200, threads=1),
)


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its data, its layers, and how activations become features."""

    name: str
    model: nn.Module
    batches: Batches
    layers: list[str]
    reduce: str

    @property
    def num_samples(self) -> int:
        """N."""
        return sum(len(labels) for _, labels in self.batches)


def cases(config: Config) -> list[Case]:
    """An MLP on 784 inputs; a ResNet of three stages on 32×32 images, pooled."""
    torch.manual_seed(config.seed)
    k, (width, depth, samples) = config.num_classes, config.mlp
    mlp = MLP(784, (width,) * depth, k).eval()
    width, images = config.resnet
    resnet = ResNet(3, k, stages=(1, 1, 1), width=width).eval()
    blocks = [f"blocks.{i}" for i in range(depth)]
    return [
        Case("MLP", mlp, _data(config, samples, 784), [*blocks, "head"], "flatten"),
        Case(
            "ResNet, pooled",
            resnet,
            _data(config, images, 3, 32, 32),
            ["stem", "blocks.0", "blocks.1", "blocks.2", "head"],
            "pool",
        ),
    ]


def one_pass(case: Case) -> tuple[Found, int]:
    """This library."""
    found = collect_statistics(case.model, case.batches, layers=case.layers, reduce=case.reduce)
    return found, 0


def pass_per_layer(case: Case) -> tuple[Found, int]:
    """A forward pass for each layer, whose features are kept."""
    found, held = {}, 0
    for name in case.layers:
        kept = _kept(case, [name])
        found[name] = _by_class(torch.cat(kept[name]), _labels(case))
        held = max(held, _bytes(kept))
    return found, held


def all_kept(case: Case) -> tuple[Found, int]:
    """One forward pass; the features of every layer are kept."""
    kept = _kept(case, case.layers)
    labels = _labels(case)
    return {name: _by_class(torch.cat(x), labels) for name, x in kept.items()}, _bytes(kept)


def accumulators(case: Case) -> tuple[Found, int]:
    """Class sums in a first pass, deviations from the class means in a second, no features kept.

    What the accumulators of the package neural_collapse do (github.com/rhubarbwu/neural-collapse),
    written out in float64: pip finds no release of it, and its own sums are in float32.
    """
    labels = _labels(case)
    counts = torch.bincount(labels)
    sums, within, squares = ({name: torch.zeros(()) for name in case.layers} for _ in range(3))

    def one_hot(y: Tensor) -> Tensor:
        return nn.functional.one_hot(y, len(counts)).double().mT

    def first(name: str, x: Tensor, y: Tensor) -> None:
        sums[name] = sums[name] + one_hot(y) @ x.double()

    def second(name: str, x: Tensor, y: Tensor) -> None:
        deviations = x.double() - means[name][y]
        within[name] = within[name] + deviations.mT @ deviations
        squares[name] = squares[name] + (one_hot(y) @ deviations.square()).sum(1)

    _walk(case, case.layers, first)
    means = {name: total / counts[:, None] for name, total in sums.items()}
    _walk(case, case.layers, second)
    found = {
        name: pnc.ClassStatistics(
            counts, means[name], (w + w.mT) / (2 * len(labels)), squares[name] / counts
        )
        for name, w in within.items()
    }
    return found, 0


METHODS: dict[str, Callable[[Case], tuple[Found, int]]] = {
    OURS: one_pass,
    "loop, a pass per layer": pass_per_layer,
    "loop, all features kept": all_kept,
    "two-pass accumulators": accumulators,
}


def run(config: Config) -> dict[str, Any]:
    """All measurements, as plain values."""
    torch.set_num_threads(config.threads)
    return {
        "config": asdict(config),
        "machine": machine(),
        "cases": [measure(case, config) for case in cases(config)],
        "networks": [beside_forward(config.network, k) for k in config.network.classes],
    }


def measure(case: Case, config: Config) -> dict[str, Any]:
    """Every method on one case, in turns, so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    answers = {name: method(case) for name, method in METHODS.items()}  # and a warm-up
    for _ in range(config.repetitions):
        for name, method in METHODS.items():
            start = time.perf_counter()
            method(case)
            seconds[name].append(time.perf_counter() - start)
    reference, ours = answers["loop, all features kept"][0], statistics.median(seconds[OURS])
    return {
        "case": case.name,
        "num_samples": case.num_samples,
        "dims": {name: s.dim for name, s in reference.items()},
        "methods": [
            {
                "method": name,
                "seconds": statistics.median(times),
                "ratio": statistics.median(times) / ours,
                "features_held": answers[name][1],
                "difference": difference(answers[name][0], reference),
            }
            for name, times in seconds.items()
        ],
    }


def difference(found: Found, wanted: Found) -> float:
    """Largest relative difference of means and covariances over the layers."""
    pairs = [(found[n].means, wanted[n].means) for n in wanted]
    pairs += [(found[n].within, wanted[n].within) for n in wanted]
    return max(((a - b).norm() / b.norm()).item() for a, b in pairs)


@torch.no_grad()
def _walk(case: Case, names: list[str], take: Callable[[str, Tensor, Tensor], None]) -> None:
    """One forward pass over the data; `take(name, features, labels)` at every layer and batch."""
    labels = torch.empty(0)

    def hooked(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            pooled = case.reduce == "pool" and output.ndim == 4
            take(name, output.mean((2, 3)) if pooled else output.flatten(1), labels)

        return hook

    handles = [case.model.get_submodule(n).register_forward_hook(hooked(n)) for n in names]
    for inputs, labels in case.batches:  # noqa: B007 - the hooks read them
        case.model(inputs)
    for handle in handles:
        handle.remove()


def _kept(case: Case, names: list[str]) -> dict[str, list[Tensor]]:
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    _walk(case, names, lambda name, x, y: kept[name].append(x))
    return kept


def _by_class(x: Tensor, labels: Tensor) -> pnc.ClassStatistics:
    x, counts = x.double(), torch.bincount(labels)
    means, variances = [], []
    within = x.new_zeros(x.shape[1], x.shape[1])
    for k in range(len(counts)):
        rows = x[labels == k]
        means.append(rows.mean(0))
        deviations = rows - means[-1]
        within += deviations.mT @ deviations
        variances.append(deviations.square().sum() / len(rows))
    within = (within + within.mT) / (2 * len(x))
    return pnc.ClassStatistics(counts, torch.stack(means), within, torch.stack(variances))


def _data(config: Config, samples: int, *shape: int) -> Batches:
    x = torch.randn(samples, *shape)
    y = torch.arange(samples) % config.num_classes
    return list(zip(x.split(config.batch_size), y.split(config.batch_size), strict=True))


def _labels(case: Case) -> Tensor:
    return torch.cat([labels for _, labels in case.batches])


def _bytes(kept: dict[str, list[Tensor]]) -> int:
    return sum(x.nbytes for of_layer in kept.values() for x in of_layer)


def as_markdown(result: dict[str, Any]) -> str:
    """The tables of a result."""
    ran_on, config = result["machine"], result["config"]
    lines = [
        "# Statistics of every layer",
        "",
        f"`python -m benchmarks.extraction`: {ran_on['cpu']}, {ran_on['threads']} thread(s), torch "
        f"{ran_on['torch']}, batches of {config['batch_size']}, median of {config['repetitions']}, "
        "methods in turns.",
    ]
    for case in result["cases"]:
        dims = ", ".join(str(d) for d in case["dims"].values())
        lines += ["", f"## {case['case']}: N = {case['num_samples']:,}, d = {dims}", ""]
        lines += ["| method | seconds | × ours | MB of features held | relative difference |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| {row['method']} | {row['seconds']:.3g} | {row['ratio']:.2f} | "
            f"{row['features_held'] / 1e6:.3g} | {row['difference']:.1e} |"
            for row in case["methods"]
        ]
    lines += network_table(result["networks"])
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write extraction.json and extraction.md."""
    command_line(
        "extraction", str(__doc__), lambda quick: run(QUICK if quick else Config()), as_markdown
    )


if __name__ == "__main__":
    main()
