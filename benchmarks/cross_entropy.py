"""minimize with cross-entropy against L-BFGS-B on (W, b, H): `python -m benchmarks.cross_entropy`.

Seconds are CPU seconds of one thread, which other work on the machine disturbs less than the
clock. L-BFGS-B runs until the relative norm of ∇g at its (W, b) is at most `tolerance`, looked at
every few iterations at no cost to it, or until it has spent `limit` times as long as minimize.
"""

import resource
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize as scipy_minimize

import perturb_nc as pnc
from benchmarks.features import make_features
from benchmarks.machine import command_line, machine

STRENGTHS = {"lambda_w": 5e-3, "lambda_h": 5e-3, "beta": 1.0}


@dataclass(frozen=True)
class Config:
    """Cases (N, d, K); the peer runs on the first."""

    cases: tuple[tuple[int, int, int], ...] = (
        (5_000, 512, 10),
        (50_000, 512, 10),
        (10_000, 512, 100),
    )
    tolerance: float = 1e-8
    limit: float = 100.0
    every: int = 20
    seed: int = 0


QUICK = Config(cases=((60, 8, 3),), tolerance=1e-5, limit=1000.0)


class StoppedError(Exception):
    """The peer has arrived, or used up its time."""


def run(config: Config) -> dict[str, Any]:
    """All measurements, as plain values."""
    torch.set_num_threads(1)
    rows = []
    for n, d, k in config.cases:
        features, labels = make_features(n, d, k, spread=1.0, noise=1 / d**0.5, seed=config.seed)
        start = time.process_time()
        problem = pnc.CrossEntropyProblem(features, labels, **STRENGTHS)
        solution = pnc.minimize(problem, tol=config.tolerance)
        seconds = time.process_time() - start
        row = {
            "samples": n, "dim": d, "num_classes": k, "seconds": seconds,
            "steps": solution.steps, "products": solution.products,
            "gradient_norm": solution.gradient_norm,
            "spectral_ratio": solution.certificate.spectral_ratio,
            "gap": solution.certificate.gap, "is_global": solution.certificate.is_global,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }  # fmt: skip
        if not rows:
            row["lbfgs"] = lbfgs(problem, config, config.limit * seconds)
            # As far as the peer came, and no further.
            tolerance = max(config.tolerance, row["lbfgs"]["gradient_norm"])
            start = time.process_time()
            problem = pnc.CrossEntropyProblem(features, labels, **STRENGTHS)
            pnc.minimize(problem, tol=tolerance)
            row["seconds_as_far_as_lbfgs"] = time.process_time() - start
        rows.append(row)
    return {"config": asdict(config), "machine": machine(), "cases": rows}


def lbfgs(problem: pnc.CrossEntropyProblem, config: Config, limit: float) -> dict[str, Any]:
    """scipy's L-BFGS-B on all unknowns, from (0, 0, H0)."""
    x, y = problem.features, problem.labels
    (n, d), k = x.shape, problem.num_classes
    cut, spent, count, norm = k * (d + 1), 0.0, 0, float("inf")
    began = time.process_time()

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        z = torch.from_numpy(flat)
        last, h = z[:cut].view(k, d + 1), z[cut:].view(n, d)
        w = last[:, :d]
        logits = torch.addmm(last[:, d], h, w.mT)
        q = logits.softmax(1)
        value = logits.logsumexp(1).sum() - logits.gather(1, y[:, None]).sum()
        q[torch.arange(n), y] -= 1
        moved = h - x
        value = value + 0.5 * problem.lambda_h * h.square().sum()
        value = value + 0.5 * problem.beta * moved.square().sum()
        value = value / n + problem.lambda_w / (2 * k) * w.square().sum()
        gradient = torch.empty_like(z)
        top = gradient[:cut].view(k, d + 1)
        top[:, :d] = q.mT @ h / n + problem.lambda_w / k * w
        top[:, d] = q.mean(0)
        rest = gradient[cut:].view(n, d)
        torch.mm(q, w, out=rest)
        rest.add_(h, alpha=problem.lambda_h).add_(moved, alpha=problem.beta).div_(n)
        return value.item(), gradient.numpy()

    def look(flat: np.ndarray) -> None:
        nonlocal spent, count, norm, began
        spent, count = spent + time.process_time() - began, count + 1
        if count % config.every == 0 or spent > limit:
            last = torch.from_numpy(flat[:cut].copy()).view(k, d + 1)
            norm = problem.at(last[:, :d], last[:, d]).gradient_norm.item()
            if norm <= config.tolerance or spent > limit:
                raise StoppedError
        began = time.process_time()

    start = torch.cat([x.new_zeros(cut), x.flatten()]).numpy()
    options = {"maxiter": 10**9, "maxfun": 10**9, "ftol": 0.0, "gtol": 0.0}
    ended = False
    try:
        scipy_minimize(
            value_and_gradient, start, jac=True, method="L-BFGS-B", callback=look, options=options
        )
    except StoppedError:
        ended = norm <= config.tolerance
    return {"arrived": ended, "seconds": spent, "iterations": count, "gradient_norm": norm}


def as_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    ran_on, c = result["machine"], result["config"]
    strengths = ", ".join(f"{name} = {value:g}" for name, value in STRENGTHS.items())
    lines = [
        "# The cost of the optimum with cross-entropy",
        "",
        f"`python -m benchmarks.cross_entropy`: {ran_on['cpu']}, CPU seconds of one thread, torch "
        f"{ran_on['torch']}, scipy {ran_on['scipy']}; {strengths}, to a relative gradient norm of "
        f"{c['tolerance']:g}, float64.",
        "",
        "| N | d | K | seconds | steps | products | gradient norm | r | gap | peak GiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['samples']:,} | {r['dim']} | {r['num_classes']} | {r['seconds']:.3g} | {r['steps']} "
        f"| {r['products']} | {r['gradient_norm']:.1e} | {r['spectral_ratio']:.3g} | "
        f"{r['gap']:.1e} | {r['peak_gib']:.2g} |"
        for r in result["cases"]
    ]
    first, peer = result["cases"][0], result["cases"][0]["lbfgs"]
    ours = first["seconds_as_far_as_lbfgs"]
    lines += [
        "",
        f"L-BFGS-B on (W, b, H) of the first case: {'arrived' if peer['arrived'] else 'stopped'} "
        f"after {peer['seconds']:.3g} s and {peer['iterations']:,} iterations at a gradient norm "
        f"of {peer['gradient_norm']:.1e}, as far as minimize comes in {ours:.3g} s: "
        f"{peer['seconds'] / ours:.0f} times as long.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write cross_entropy.json and cross_entropy.md."""
    command_line(
        "cross_entropy", str(__doc__), lambda quick: run(QUICK if quick else Config()), as_markdown
    )


if __name__ == "__main__":
    main()
