"""minimize with many classes on sparse features: `python -m benchmarks.many_classes [--quick]`.

The features are like those of a MobileNetV2 on ImageNet: after a ReLU6, most entries 0, some units
dead, as many classes as dimensions. Seconds are by the clock.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import perturb_nc as pnc
from benchmarks.machine import command_line, machine


@dataclass(frozen=True)
class Config:
    """Sizes, and the tolerances to reach."""

    num_classes: int = 1_000
    dim: int = 1_280
    samples: int = 5_000
    dead: int = 40
    lambda_w: float = 0.05
    lambda_h: float = 0.005
    beta: float = 1.0
    tolerances: tuple[float, ...] = (1e-10, 1e-6)
    threads: int = 2
    seed: int = 0


QUICK = Config(num_classes=50, dim=64, samples=500, dead=2, threads=1)


def run(config: Config) -> dict[str, Any]:
    """All measurements, as plain values."""
    torch.set_num_threads(config.threads)
    features, labels = sparse_features(config)
    strengths = {n: getattr(config, n) for n in ("lambda_w", "lambda_h", "beta")}
    statistics = pnc.ClassStatistics.from_features(features, labels)
    problem = pnc.NearCollapseProblem(statistics, **strengths)
    return {
        "config": asdict(config),
        "machine": machine(),
        "zeros": (features == 0).double().mean().item(),
        "dead": int((features == 0).all(0).sum()),
        "cases": [measure(problem, tol) for tol in config.tolerances],
    }


def sparse_features(config: Config) -> tuple[Tensor, Tensor]:
    """min(max(μ_k + noise, 0), 6), (N, d): a unit is high for one class in ten, else below 0."""
    generator = torch.Generator().manual_seed(config.seed)
    shape, labels = (config.num_classes, config.dim), torch.arange(config.samples)
    labels = labels % config.num_classes
    high = torch.rand(shape, generator=generator) < 0.1
    means = torch.where(high, 3 * torch.rand(shape, generator=generator), -0.72)
    noise = torch.randn(config.samples, config.dim, generator=generator)
    features = (means[labels] + noise).clamp(0, 6).double()
    features[:, torch.randperm(config.dim, generator=generator)[: config.dead]] = 0.0
    return features, labels


def measure(problem: pnc.NearCollapseProblem, tol: float) -> dict[str, Any]:
    """`minimize` to a tolerance."""
    start = time.perf_counter()
    found = pnc.minimize(problem, tol=tol)
    return {
        "tol": tol,
        "seconds": time.perf_counter() - start,
        "status": found.status.name,
        "steps": found.steps,
        "products": found.products,
        "gradient_norm": found.gradient_norm,
        "spectral_ratio": found.certificate.spectral_ratio,
        "gap": found.certificate.gap,
        "lowest_curvature": found.lowest_curvature,
        "curvature_tolerance": found.curvature_tolerance,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    ran_on, c = result["machine"], result["config"]
    lines = [
        "# Many classes",
        "",
        f"`python -m benchmarks.many_classes`: {ran_on['cpu']}, {ran_on['threads']} thread(s), "
        f"torch {ran_on['torch']}, load {ran_on['load']:.1f}. `minimize` with K = "
        f"{c['num_classes']:,}, d = {c['dim']:,} and N = {c['samples']:,}; features between 0 and "
        f"6, {100 * result['zeros']:.0f} % of them 0 and {result['dead']} units dead; λ_W = "
        f"{c['lambda_w']:g}, λ_H = {c['lambda_h']:g}, β = {c['beta']:g}. Curvature as in "
        "`Solution.lowest_curvature`.",
        "",
        "| tol | seconds | status | steps | products | gradient norm | r | gap | curvature |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['tol']:.0e} | {r['seconds']:.3g} | {r['status']} | {r['steps']} | {r['products']} | "
        f"{r['gradient_norm']:.1e} | {r['spectral_ratio']:.3g} | {r['gap']:.1e} | "
        f"{r['lowest_curvature']:.2g} ± {r['curvature_tolerance']:.1g} |"
        for r in result["cases"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write many_classes.json and many_classes.md."""
    command_line(
        "many_classes", str(__doc__), lambda quick: run(QUICK if quick else Config()), as_markdown
    )


if __name__ == "__main__":
    main()
