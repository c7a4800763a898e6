"""Many runs of the deep model as one batch against a plain loop: `python -m benchmarks.deep_ufm`.

Time per run and gradient-descent step. Every method takes the same steps from the same starts, and
the objectives reached are compared. The loop is timed on a part of the runs: its time per run does
not depend on how many there are.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import perturb_nc as pnc
from benchmarks.machine import command_line, machine


@dataclass(frozen=True)
class Config:
    """n = 1, so that N = K. rate is small enough for every start to stay finite."""

    depth: int = 4
    num_classes: int = 10
    width: int = 64
    decay: float = 4e-3
    rate: float = 0.05
    batches: tuple[int, ...] = (1, 10, 100, 1000)
    loop_runs: int = 20
    steps: int = 100
    repetitions: int = 5
    threads: int = 1


QUICK = Config(width=6, num_classes=3, batches=(1, 8), loop_runs=2, steps=3, repetitions=1)


def make_model(config: Config, seeds: range) -> pnc.deep.DeepUFM:
    """Runs from Gaussian starts."""
    return pnc.deep.DeepUFM(
        torch.arange(config.num_classes),
        [config.width] * config.depth,
        lambdas=config.decay,
        lambda_h=config.decay,
        seeds=seeds,
    )


def batch(model: pnc.deep.DeepUFM, config: Config) -> Tensor:
    """`gradient_descent` on all runs; the objectives."""
    return pnc.deep.gradient_descent(
        model, learning_rate=config.rate, max_steps=config.steps, check_every=config.steps
    ).objective


def loop(model: pnc.deep.DeepUFM, config: Config) -> Tensor:
    """A plain loop over runs: linear layers, autograd and SGD with weight decay."""
    targets = torch.eye(config.num_classes, dtype=torch.float64)
    values = []
    for run in range(model.runs):
        features = nn.Parameter(model.features[run].detach().clone())
        layers = []
        for weight in model.weights:
            layer = nn.Linear(weight.shape[2], weight.shape[1], bias=False, dtype=torch.float64)
            layer.weight = nn.Parameter(weight[run].detach().clone())
            layers += [layer, nn.ReLU()]
        network = nn.Sequential(*layers[:-1])
        parameters = [features, *network.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=config.rate, weight_decay=config.decay)
        for _ in range(config.steps):
            optimizer.zero_grad()
            fit = (network(features) - targets).square().sum() / (2 * len(targets))
            fit.backward()
            optimizer.step()
        with torch.no_grad():
            fit = (network(features) - targets).square().sum() / (2 * len(targets))
            penalty = sum(p.square().sum() for p in parameters)
            values.append(fit + config.decay / 2 * penalty)
    return torch.stack(values)


def vmap(model: pnc.deep.DeepUFM, config: Config) -> Tensor:
    """torch.func.vmap of the gradient of one run, on all runs."""
    targets = torch.eye(config.num_classes, dtype=torch.float64)

    def objective(parameters: tuple[Tensor, ...]) -> Tensor:
        h, *weights = parameters
        for weight in weights[:-1]:
            h = (h @ weight.mT).relu()
        fit = (h @ weights[-1].mT - targets).square().sum() / (2 * len(targets))
        return fit + config.decay / 2 * sum(p.square().sum() for p in parameters)

    gradient = torch.func.vmap(torch.func.grad(objective))
    parameters = tuple(p.detach().clone() for p in (model.features, *model.weights))
    for _ in range(config.steps):
        for p, g in zip(parameters, gradient(parameters), strict=True):
            p.sub_(g, alpha=config.rate)
    return torch.func.vmap(objective)(parameters)


def measure(
    method: Callable[[pnc.deep.DeepUFM, Config], Tensor], runs: int, config: Config
) -> dict[str, Any]:
    """Median seconds per run and step, and the objectives reached."""
    seconds = []
    for _ in range(config.repetitions + 1):  # the first one warms up
        model = make_model(config, range(runs))
        start = time.perf_counter()
        values = method(model, config)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:] or seconds)
    return {
        "runs": runs,
        "seconds_per_run_step": median / (runs * config.steps),
        "spread": (max(seconds[1:]) - min(seconds[1:])) / median,
        "values": values,
    }


def run(config: Config) -> dict[str, Any]:
    """All measurements, as plain values."""
    torch.set_num_threads(config.threads)
    rows = [("loop over runs, autograd and SGD", measure(loop, config.loop_runs, config))]
    rows += [("gradient_descent", measure(batch, runs, config)) for runs in config.batches]
    rows += [("torch.func.vmap", measure(vmap, config.batches[-1], config))]
    base = rows[0][1]
    values = base["values"]
    table = []
    for name, row in rows:
        found = row.pop("values")
        shared = min(len(found), len(values))
        difference = (found[:shared] - values[:shared]).abs().max().item()
        ratio = base["seconds_per_run_step"] / row["seconds_per_run_step"]
        table.append({"method": name, **row, "speedup": ratio, "difference": difference})
    return {"config": asdict(config), "machine": machine(), "methods": table}


def as_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    c, ran_on = result["config"], result["machine"]
    lines = [
        "# Many runs of the deep model as one batch",
        "",
        f"`python -m benchmarks.deep_ufm`: {ran_on['cpu']}, {ran_on['threads']} thread(s), torch "
        f"{ran_on['torch']}. L = {c['depth']}, K = {c['num_classes']}, width {c['width']}, n = 1, "
        f"float64, {c['steps']} gradient-descent steps, median of {c['repetitions']}.",
        "",
        "| method | runs | µs per run and step | loop / this | spread | difference of f |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['method']} | {r['runs']} | {1e6 * r['seconds_per_run_step']:.1f} | "
        f"{r['speedup']:.2f} | {r['spread']:.0%} | {r['difference']:.1e} |"
        for r in result["methods"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write deep_ufm.json and deep_ufm.md."""
    command_line(
        "deep_ufm", str(__doc__), lambda quick: run(QUICK if quick else Config()), as_markdown
    )


if __name__ == "__main__":
    main()
