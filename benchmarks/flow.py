"""central_path_flow against peers at equal accuracy: `python -m benchmarks.flow [--quick]`.

Every method runs at the loosest rtol of 1e-3, 3e-4, 1e-4, ... 1e-9 at which its final class means
are within `accuracy` of a tight reference; that run is timed. The reference is this library at rtol
1e-11, checked once against scipy's DOP853 on the class statistics.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import perturb_nc as pnc
from benchmarks.features import feature_chunks, make_features
from benchmarks.machine import command_line, machine
from benchmarks.peers import PEERS, Answer, Case, NotAvailable, flow, flow_from_features

OURS = "central_path_flow"
TOLERANCES = [10.0 ** (-k / 2) for k in range(6, 19)]


@dataclass(frozen=True)
class Config:
    """Sizes are (N, d); features are class means (orthonormal × 3) plus 0.3 noise, or noise."""

    small: tuple[int, int] = (120, 12)
    large: tuple[int, int] = (5_000, 512)
    scaling_samples: tuple[int, ...] = (10**3, 10**4, 10**5, 10**6)
    num_classes: int = 10
    lambda_w: float = 5e-3
    lambda_h: float = 5e-3
    time: float = 10.0
    accuracy: float = 1e-6
    repetitions: int = 7
    threads: int = 2
    seed: int = 0


QUICK = Config(
    small=(30, 5),
    large=(60, 8),
    scaling_samples=(100, 1000),
    num_classes=3,
    lambda_w=5e-2,
    time=2.0,
    repetitions=1,
    threads=1,
)


def run(config: Config) -> dict[str, Any]:
    """All measurements, as plain values."""
    torch.set_num_threads(config.threads)
    cases = [
        make_case("small", config, config.small, spread=3.0),
        make_case("class means", config, config.large, spread=3.0),
        make_case("random", config, config.large, spread=0.0),
    ]
    return {
        "config": asdict(config),
        "machine": machine(),
        "cases": [measure(case, config) for case in cases],
        "scaling": [scale(n, config) for n in config.scaling_samples],
    }


def make_case(name: str, config: Config, size: tuple[int, int], *, spread: float) -> Case:
    """Balanced classes; noise of standard deviation 0.3, or 1 where there are no class means."""
    noise = 0.3 if spread else 1.0
    features, labels = make_features(
        *size, config.num_classes, spread=spread, noise=noise, seed=config.seed
    )
    found = pnc.ClassStatistics.from_features(features, labels, config.num_classes)
    return Case(name, features, labels, found, config.lambda_w, config.lambda_h, config.time)


def measure(case: Case, config: Config) -> dict[str, Any]:
    """Every method on one case."""
    options = {"lambda_w": case.lambda_w, "lambda_h": case.lambda_h, "times": [case.time]}
    reference = pnc.central_path_flow(case.statistics, **options, rtol=1e-11).means[-1]
    judge = pnc.central_path_flow(
        case.statistics, **options, method="DOP853", rtol=1e-10, atol=1e-12
    )
    methods = {OURS: flow, f"{OURS}, statistics included": flow_from_features, **PEERS}
    rows = [
        {"method": name, **_at_accuracy(method, case, reference, config)}
        for name, method in methods.items()
    ]
    ours = rows[0]["seconds"]
    for row in rows:
        row["ratio"] = row["seconds"] / ours if row["seconds"] and ours else None
    samples, dim = case.features.shape
    return {
        "case": case.name,
        "num_samples": samples,
        "dim": dim,
        "reference_against_dop853": _distance(judge.means[-1], reference),
        "methods": rows,
    }


def _at_accuracy(
    method: Callable[[Case, float], Answer], case: Case, reference: Tensor, config: Config
) -> dict[str, Any]:
    """The loosest rtol that is accurate enough, its median time, and what else it took."""
    empty = {"rtol": None, "seconds": None, "error": None, "evaluations": None}
    try:
        for rtol in TOLERANCES:
            first, answer = _timed(method, case, rtol)
            error = _distance(answer.means, reference)
            if error <= config.accuracy:
                break
        else:
            return {**empty, "error": error, "note": f"not accurate enough at rtol {rtol:.0e}"}
    except NotAvailable as reason:
        return {**empty, "note": str(reason)}
    # A slow peer is timed once: its spread is small beside the ratios.
    seconds = [first]
    if first < 5:
        seconds = [_timed(method, case, rtol)[0] for _ in range(config.repetitions)]
    return {
        "rtol": rtol,
        "seconds": statistics.median(seconds),
        "error": error,
        "evaluations": answer.evaluations,
        "note": f"median of {len(seconds)}",
    }


def scale(samples: int, config: Config) -> dict[str, Any]:
    """Time to stream N features into statistics (their making excluded), and of the flow."""
    dim, streaming = config.large[1], 0.0
    builder = pnc.StatisticsBuilder(config.num_classes)
    for features, labels in feature_chunks(
        samples, dim, config.num_classes, spread=3.0, noise=0.3, seed=config.seed
    ):
        start = time.perf_counter()
        builder.update(features, labels)
        streaming += time.perf_counter() - start
    found = builder.result()

    def integrate() -> tuple[float, pnc.FlowPath]:
        start = time.perf_counter()
        path = pnc.central_path_flow(
            found, lambda_w=config.lambda_w, lambda_h=config.lambda_h, times=[config.time]
        )
        return time.perf_counter() - start, path

    runs = [integrate() for _ in range(config.repetitions)]
    return {
        "num_samples": samples,
        "dim": dim,
        "streaming_seconds": streaming,
        "flow_seconds": statistics.median(seconds for seconds, _ in runs),
        **asdict(runs[0][1].cost),
    }


def _timed(
    method: Callable[[Case, float], Answer], case: Case, rtol: float
) -> tuple[float, Answer]:
    start = time.perf_counter()
    answer = method(case, rtol)
    return time.perf_counter() - start, answer


def _distance(means: Tensor, reference: Tensor) -> float:
    return float((means - reference).norm() / reference.norm())


def as_markdown(result: dict[str, Any]) -> str:
    """The tables of a result."""
    c, ran_on = result["config"], result["machine"]
    lines = [
        "# The cost of the central-path flow",
        "",
        f"`python -m benchmarks.flow`: {ran_on['cpu']}, {ran_on['threads']} threads, torch "
        f"{ran_on['torch']}, scipy {ran_on['scipy']}. K = {c['num_classes']}, λ_W = "
        f"{c['lambda_w']:g}, λ_H = {c['lambda_h']:g}, t = {c['time']:g}. Every method at the "
        f"loosest rtol whose final class means are within {c['accuracy']:g} of a reference.",
    ]
    for case in result["cases"]:
        lines += ["", f"## {case['case']}: N = {case['num_samples']}, d = {case['dim']}", ""]
        lines += ["| method | rtol | seconds | × ours | error | evaluations of W* | note |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in case["methods"]:
            cells = [_cell(row[name]) for name in ("rtol", "seconds", "ratio", "error")]
            evaluations = "–" if row["evaluations"] is None else str(row["evaluations"])
            lines.append(f"| {' | '.join([row['method'], *cells, evaluations, row['note']])} |")
        check = case["reference_against_dop853"]
        lines += ["", f"Reference against DOP853 on class statistics: {check:.1e}."]
    lines += ["", f"## {OURS} at rtol 1e-6 by number of samples", ""]
    lines += [
        "| N | d | streaming to statistics, s | flow, s | steps | dimension of the weights' space |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    lines += [
        f"| {r['num_samples']:,} | {r['dim']} | {r['streaming_seconds']:.3g} | "
        f"{r['flow_seconds']:.3g} | {r['steps']} | {r['dimension']} |"
        for r in result["scaling"]
    ]
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def main() -> None:
    """Measure, and write flow.json and flow.md."""
    command_line("flow", str(__doc__), lambda quick: run(QUICK if quick else Config()), as_markdown)


if __name__ == "__main__":
    main()
