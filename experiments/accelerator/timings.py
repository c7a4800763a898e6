"""Seconds on the device, and of peers on the same device in turns; medians after a warm-up.

Peers are what one would write without the library: the forward pass alone for extraction; one
setting after the other for batches; L-BFGS of torch on all unknowns for cross-entropy; autograd run
by run for the deep model.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import perturb_nc as pnc
from benchmarks.deep_ufm import Config as DeepConfig
from benchmarks.features import make_features
from experiments.accelerator.setting import Setting
from perturb_nc.networks import ResNet
from perturb_nc.theory import central_path_flows

Calls = dict[str, Callable[[], Any]]


def seconds(calls: Calls, setting: Setting, repetitions: int = 5) -> dict[str, Any]:
    """Median seconds of every call, in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repetitions + 1):
        for name, call in calls.items():
            setting.wait()
            start = time.perf_counter()
            call()
            setting.wait()
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def reference(setting: Setting, samples: int) -> tuple[Tensor, Tensor]:
    """Features of ten classes on the device, d = 512."""
    d, k = (8, 3) if setting.tiny else (512, 10)
    n = 60 if setting.tiny else samples
    x, y = make_features(n, d, k, spread=3.0, noise=6.8 / d**0.5, seed=0)
    return x.to(setting.device), y.to(setting.device)


def extraction(setting: Setting) -> dict[str, Any]:
    """Statistics of every block of a ResNet-18 against its forward pass; wanted: 1.3 times."""
    n, size = (40, 20) if setting.tiny else (10_000, 500)
    torch.manual_seed(0)
    model = ResNet(3, 10, width=4 if setting.tiny else 64).to(setting.device).eval()
    images = torch.randn(n, 3, 32, 32, device=setting.device)
    labels = torch.arange(n, device=setting.device) % 10
    batches = list(zip(images.split(size), labels.split(size), strict=True))

    def forward() -> None:
        with torch.no_grad():
            for x, _ in batches:
                model(x)

    def forward_bfloat16() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16):
            forward()

    def measured_bfloat16() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16):
            pnc.collect_statistics(model, batches)

    found = seconds(
        {
            "forward": forward,
            "every block": lambda: pnc.collect_statistics(model, batches),
            "forward, bfloat16": forward_bfloat16,
            "every block, bfloat16": measured_bfloat16,
        },
        setting,
        repetitions=1 if setting.tiny else 5,
    )
    ratios = {
        "ratio": found["every block"] / found["forward"],
        "ratio, bfloat16": found["every block, bfloat16"] / found["forward, bfloat16"],
    }
    return {"images": n, "seconds": found, **ratios}


def optima(setting: Setting) -> dict[str, Any]:
    """10⁴ certified optima in a batch, and some one by one; wanted: 3 s."""
    x, y = reference(setting, 50_000)
    known = pnc.ClassStatistics.from_features(x, y)
    size = 2 if setting.tiny else 22
    axes = [
        torch.logspace(a, b, size, dtype=torch.float64) for a, b in ((-4, -1), (-4, -1), (-1, 1))
    ]
    grid = torch.cartesian_prod(*axes)[: 8 if setting.tiny else 10_000]
    values = dict(zip(("lambda_w", "lambda_h", "beta"), grid.mT.tolist(), strict=True))
    singles = torch.linspace(0, len(grid) - 1, 3 if setting.tiny else 20).long().tolist()

    def alone() -> None:
        for i in singles:
            own = {name: column[i] for name, column in values.items()}
            pnc.minimize(pnc.NearCollapseProblem(known, **own))

    found = seconds(
        {"batch": lambda: pnc.minimize_batch(known, **values), "one by one": alone}, setting, 1
    )
    batch = pnc.minimize_batch(known, **values)
    return {
        "settings": len(grid), "certified": int(batch.is_global.sum()), "seconds": found,
        "ratio": found["one by one"] / len(singles) * len(grid) / found["batch"],
    }  # fmt: skip


def vicinity(setting: Setting) -> dict[str, Any]:
    """10⁶ settings near collapse."""
    x, y = reference(setting, 5_000)
    known = pnc.ClassStatistics.from_features(x, y)
    size = 4 if setting.tiny else 100
    axes = [
        torch.logspace(a, b, size, dtype=torch.float64) for a, b in ((-3, -1), (-3, -1), (0, 2))
    ]
    names = ("lambda_w", "lambda_h", "beta")
    grid = dict(zip(names, torch.meshgrid(*axes, indexing="ij"), strict=True))
    repetitions = 1 if setting.tiny else 5
    found = seconds(
        {"batch": lambda: pnc.small_vicinity_batch(known, **grid)}, setting, repetitions
    )
    return {"settings": size**3, "seconds": found}


def _axes(size: int, *exponents: tuple[int, int]) -> list[Tensor]:
    return [torch.logspace(low, high, size, dtype=torch.float64) for low, high in exponents]


def flows(setting: Setting) -> dict[str, Any]:
    """Central paths of many settings at once, and some one by one."""
    x, y = reference(setting, 5_000)
    known, count = pnc.ClassStatistics.from_features(x, y), 2 if setting.tiny else 64
    w = torch.logspace(-3, -1, count, dtype=torch.float64).tolist()
    times, few = [0.0, 1.0], 2 if setting.tiny else 8

    def alone() -> None:
        for value in w[:: len(w) // few]:
            pnc.central_path_flow(known, lambda_w=value, lambda_h=1e-3, times=times)

    found = seconds(
        {
            "batch": lambda: central_path_flows(
                known, lambda_w=w, lambda_h=[1e-3] * count, times=times
            ),
            "one by one": alone,
        },
        setting,
        1,
    )
    ratio = found["one by one"] / few * count / found["batch"]
    return {"settings": count, "seconds": found, "ratio": ratio}


def cross_entropy(setting: Setting) -> dict[str, Any]:
    """The optimum at N = 50,000, against L-BFGS of torch on (W, b, H) for as many seconds × 20."""
    x, y = reference(setting, 50_000)
    strengths = {"lambda_w": 5e-3, "lambda_h": 5e-3, "beta": 1.0}
    problem = pnc.CrossEntropyProblem(x, y, **strengths)
    found = seconds({"minimize": lambda: pnc.minimize(problem)}, setting, 1)
    solution = pnc.minimize(problem)
    return {
        "samples": len(x), "seconds": found, "objective": solution.objective,
        "gap": solution.certificate.gap,
        "lbfgs": _lbfgs(problem, strengths, setting, 20 * found["minimize"]),
    }  # fmt: skip


def _lbfgs(
    problem: pnc.CrossEntropyProblem, strengths: dict[str, float], setting: Setting, limit: float
) -> dict[str, Any]:
    x, y = problem.features, problem.labels
    k = problem.num_classes
    w = torch.zeros(k, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    b = torch.zeros(k, dtype=x.dtype, device=x.device, requires_grad=True)
    h = x.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([w, b, h], max_iter=20, history_size=10)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(h @ w.mT + b, y)
        value = value + strengths["lambda_w"] / (2 * k) * w.square().sum()
        value = value + strengths["lambda_h"] / (2 * len(x)) * h.square().sum()
        value = value + strengths["beta"] / (2 * len(x)) * (h - x).square().sum()
        value.backward()
        return value

    start, rounds = time.perf_counter(), 0
    while time.perf_counter() - start < limit and rounds < (2 if setting.tiny else 10_000):
        optimizer.step(closure)
        setting.wait()
        rounds += 1
    norm = problem.at(w.detach(), b.detach()).gradient_norm.item()
    return {
        "seconds": time.perf_counter() - start, "iterations": 20 * rounds,
        "objective": closure().item(), "gradient_norm": norm,
    }  # fmt: skip


def deep(setting: Setting) -> dict[str, Any]:
    """Runs of the deep unconstrained features model in a batch, and a plain loop over some."""
    config = DeepConfig(width=6 if setting.tiny else 64, num_classes=3 if setting.tiny else 10,
                        steps=3 if setting.tiny else 100)  # fmt: skip
    runs, few = (8, 2) if setting.tiny else (1000, 5)

    def descend(seeds: range) -> Any:
        labels = torch.arange(config.num_classes, device=setting.device)
        model = pnc.deep.DeepUFM(
            labels, [config.width] * config.depth, lambdas=config.decay, lambda_h=config.decay,
            seeds=seeds,
        )  # fmt: skip
        return pnc.deep.gradient_descent(
            model, learning_rate=config.rate, max_steps=config.steps, check_every=config.steps
        )

    found = seconds(
        {
            "batch": lambda: descend(range(runs)),
            "one by one": lambda: [descend(range(i, i + 1)) for i in range(few)],
        },
        setting,
        1,
    )
    ratio = found["one by one"] / few * runs / found["batch"]
    return {"runs": runs, "steps": config.steps, "seconds": found, "ratio": ratio}


TIMINGS = {
    "extraction": extraction, "optima": optima, "vicinity": vicinity, "flows": flows,
    "cross_entropy": cross_entropy, "deep": deep,
}  # fmt: skip


def make(setting: Setting, name: str) -> dict[str, Any]:
    """The piece."""
    found = {}
    for timing, measure in TIMINGS.items():
        try:
            found[timing] = measure(setting)
        except Exception as error:  # a result too, and no reason to lose the others
            found[timing] = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(f"{name} {timing}: {found[timing]}", flush=True)
    return {"timings": found}
