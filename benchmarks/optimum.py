"""minimize against peers at equal gradient norm: `python -m benchmarks.optimum [--quick]`.

Every method runs until ‖∇g(W)‖, relative to its bound, is at most `tolerance`, or until a time
limit. A second part compares settings solved one by one with `minimize_batch`.
"""

import math
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch

import perturb_nc as pnc
from benchmarks.features import make_features
from benchmarks.machine import command_line, machine
from benchmarks.optimum_peers import PEERS, Case, Recorder, Stopped

NAME = "minimize"
KINDS = {  # norm of the class means, and of the noise of a sample
    "near collapse": (1.0, 1.0),
    "weak means": (0.1, 1.0),
    "random": (0.0, 1.0),
    "larger": (3.0, 6.8),  # as in benchmarks.flow
}


@dataclass(frozen=True)
class Config:
    """Sizes and settings; (kind, n) means n³ settings of (λ_W, λ_H, β)."""

    samples: tuple[int, ...] = (5_000, 50_000)
    dim: int = 512
    num_classes: int = 10
    lambda_w: float = 5e-3
    lambda_h: float = 5e-3
    beta: float = 1.0
    tolerance: float = 1e-8
    limit: float = 60.0
    repetitions: int = 15
    batches: tuple[tuple[str, int], ...] = (
        ("larger", 10),
        ("larger", 22),
        ("near collapse", 4),
    )
    singles: int = 50
    lambda_range: tuple[float, float] = (1e-4, 1e-1)
    beta_range: tuple[float, float] = (0.1, 10.0)
    threads: int = 2
    seed: int = 0


QUICK = Config(
    samples=(60,),
    dim=16,
    num_classes=3,
    tolerance=1e-6,
    limit=30.0,
    repetitions=1,
    batches=(("near collapse", 2),),
    singles=3,
    threads=1,
)


def run(config: Config) -> dict[str, Any]:
    """All measurements, as plain values."""
    torch.set_num_threads(config.threads)
    result = {
        "config": asdict(config),
        "machine": machine(),
        "cases": [
            measure(make_case(kind, n, config), config) for n in config.samples for kind in KINDS
        ],
    }
    torch.set_num_threads(1)  # a second one makes batches of small matrices slower
    batches = [batch(kind, size, config) for kind, size in config.batches]
    return {**result, "batches": batches}


def make_case(kind: str, samples: int, config: Config) -> Case:
    """Features of a kind, and problem (1)."""
    features, labels = make_features(
        samples,
        config.dim,
        config.num_classes,
        spread=KINDS[kind][0],
        noise=KINDS[kind][1] / config.dim**0.5,
        seed=config.seed,
    )
    found = pnc.ClassStatistics.from_features(features, labels, config.num_classes)
    problem = pnc.NearCollapseProblem(
        found, lambda_w=config.lambda_w, lambda_h=config.lambda_h, beta=config.beta
    )
    return Case(kind, features, labels, problem)


def measure(case: Case, config: Config) -> dict[str, Any]:
    """Every method on one case."""
    seconds, solution = _median(
        lambda: pnc.minimize(case.problem, tol=config.tolerance), config.repetitions
    )
    streaming, _ = _median(
        lambda: pnc.ClassStatistics.from_features(case.features, case.labels),
        min(3, config.repetitions),
    )
    rows = [
        {
            "method": NAME,
            "seconds": seconds,
            "iterations": solution.steps,
            "gradient_norm": solution.gradient_norm,
            "trace": [],
        },
        *({"method": name, **_peer(peer, case, config)} for name, peer in PEERS.items()),
    ]
    for row in rows:
        row["ratio"] = row["seconds"] / seconds if row["seconds"] else None
    return {
        "case": case.name,
        "num_samples": len(case.features),
        "spectral_ratio": solution.certificate.spectral_ratio,
        "gap": solution.certificate.gap,
        "statistics_seconds": streaming,
        "methods": rows,
    }


def _peer(peer: Callable[[Case, Recorder], None], case: Case, config: Config) -> dict[str, Any]:
    """A run of a peer; "seconds" is None where it does not get there."""
    with suppress(Stopped):  # what is loaded at first use is not the peer's time
        peer(case, Recorder(case.problem, tolerance=math.inf, limit=0.0))
    record = Recorder(case.problem, config.tolerance, config.limit)
    with suppress(Stopped):
        peer(case, record)
    seconds, norm = record.trace[-1]
    arrived = norm <= config.tolerance
    return {
        "seconds": seconds if arrived else None,
        "stopped_after": seconds,
        "iterations": len(record.trace) - 1,
        "gradient_norm": norm,
        "trace": record.trace[:: max(1, len(record.trace) // 200)] + record.trace[-1:],
    }


def batch(kind: str, size: int, config: Config) -> dict[str, Any]:
    """A grid in one batch; some of its settings one by one."""
    reference = make_case(kind, config.samples[0], config).problem.statistics
    values = [
        torch.logspace(*(torch.tensor(ends).log10().tolist()), size, dtype=torch.float64)
        for ends in (config.lambda_range, config.lambda_range, config.beta_range)
    ]
    grid = dict(
        zip(
            ("lambda_w", "lambda_h", "beta"), torch.cartesian_prod(*values).mT.tolist(), strict=True
        )
    )
    pnc.minimize_batch(reference, **{n: v[:1] for n, v in grid.items()}).derivatives()  # warm up
    start = time.perf_counter()
    found = pnc.minimize_batch(reference, **grid)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    found.derivatives()
    derivatives = time.perf_counter() - start
    picked = torch.linspace(0, len(found) - 1, config.singles).long().tolist()
    difference, single = 0.0, 0.0
    for i in picked:
        start = time.perf_counter()
        own = {name: column[i] for name, column in grid.items()}
        alone = pnc.minimize(pnc.NearCollapseProblem(reference, **own))
        single += time.perf_counter() - start
        change = (alone.objective - found.objective[i].item()) / alone.objective
        difference = max(difference, abs(change))
    return {
        "kind": kind,
        "settings": len(found),
        "converged": sum(s is pnc.Status.CONVERGED for s in found.status),
        "certified": int(found.is_global.sum()),
        "seconds": seconds,
        "derivative_seconds": derivatives,
        "seconds_per_setting": seconds / len(found),
        "seconds_per_single": single / len(picked),
        "singles": len(picked),
        "largest_gradient_norm": found.gradient_norm.max().item(),
        "difference_of_objective": difference,
    }


def _median(call: Callable[[], Any], repetitions: int) -> tuple[float, Any]:
    """Median seconds after one call to warm up, and the last answer."""
    call()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), answer


def as_markdown(result: dict[str, Any]) -> str:
    """The tables of a result."""
    c, ran_on = result["config"], result["machine"]
    lines = [
        "# The cost of the optimum",
        "",
        f"`python -m benchmarks.optimum`: {ran_on['cpu']}, {ran_on['threads']} threads, torch "
        f"{ran_on['torch']}, scipy {ran_on['scipy']}. d = {c['dim']}, K = {c['num_classes']}, "
        f"λ_W = {c['lambda_w']:g}, λ_H = {c['lambda_h']:g}, β = {c['beta']:g}, float64. Time to a "
        f"relative gradient norm of {c['tolerance']:g}; peers get {c['limit']:g} s, and begin at "
        "W*(H0), H0. Norms of the (orthogonal) class means and of the noise of a sample: "
        + ", ".join(f"{kind} {a:g} and {b:g}" for kind, (a, b) in KINDS.items())
        + ".",
    ]
    for case in result["cases"]:
        lines += ["", f"## {case['case']}: N = {case['num_samples']:,}", ""]
        lines += [f"| method | seconds | × {NAME} | iterations | gradient norm |"]
        lines += ["|---|---|---|---|---|"]
        for row in case["methods"]:
            if row["seconds"] is None:
                spent = row["stopped_after"] / case["methods"][0]["seconds"]
                cells = [f"not in {row['stopped_after']:.3g}", f"> {spent:.0f}"]
            else:
                cells = [f"{row['seconds']:.3g}", f"{row['ratio']:.3g}"]
            cells += [str(row["iterations"]), f"{row['gradient_norm']:.1e}"]
            lines.append(f"| {' | '.join([row['method'], *cells])} |")
        lines += [
            "",
            f"Certificate: r = {case['spectral_ratio']:.3g}, gap {case['gap']:.1e}. Reducing the "
            f"features to statistics, which {NAME} and the second row need once, took "
            f"{case['statistics_seconds']:.3g} s.",
        ]
    lines += ["", "## Many settings at once", ""]
    lines += [
        f"Grids of λ_W, λ_H in {c['lambda_range']} and β in {c['beta_range']}, to a relative "
        "gradient norm of 1e-10, on one thread."
    ]
    lines += [
        "",
        "| features | settings | converged | certified global | seconds | ms a setting | "
        "one by one, ms | ratio | derivatives, s | largest gradient norm | "
        "relative difference of f |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for b in result["batches"]:
        each, single = b["seconds_per_setting"], b["seconds_per_single"]
        lines.append(
            f"| {b['kind']} | {b['settings']:,} | {b['converged']:,} | {b['certified']:,} | "
            f"{b['seconds']:.3g} | "
            f"{1e3 * each:.3g} | {1e3 * single:.3g} | {single / each:.3g} | "
            f"{b['derivative_seconds']:.3g} | {b['largest_gradient_norm']:.1e} | "
            f"{b['difference_of_objective']:.1e} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write optimum.json and optimum.md."""
    command_line(
        "optimum", str(__doc__), lambda quick: run(QUICK if quick else Config()), as_markdown
    )


if __name__ == "__main__":
    main()
