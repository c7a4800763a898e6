"""How near the floor the solvers are: `python -m benchmarks.floor [--quick]`.

The floor is what the arithmetic of a method costs at the speed of this machine: operations, counted
from sizes and from what the run reports (products, evaluations), over the speed of a large matrix
product measured beside it. Times are of the processor, one thread, the least of the repetitions.
"""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch

import perturb_nc as pnc
from benchmarks import flow, optimum
from benchmarks.machine import command_line, machine
from perturb_nc.theory.compression import narrow

GRID = {"lambda_w": (1e-3, 1e-1), "lambda_h": (1e-3, 1e-1), "beta": (0.1, 10.0)}


@dataclass(frozen=True)
class Config:
    """Sizes (d, K) and kinds of features, as in `benchmarks.optimum`; n means n³ settings."""

    optima: tuple[tuple[int, int, str], ...] = (
        (64, 10, "near collapse"),
        (512, 10, "near collapse"),
        (512, 10, "random"),
        (2048, 10, "near collapse"),
        (2048, 100, "near collapse"),
    )
    sweep: tuple[int, int, int] = (512, 10, 22)
    singles: int = 10
    samples: int = 5_000
    flows: tuple[tuple[str, int, float, float], ...] = (
        ("small", 12, 3.0, 1e-5),
        ("class means", 512, 3.0, 1e-6),
        ("random", 512, 0.0, 3e-8),
    )
    time: float = 10.0
    repetitions: int = 5


QUICK = Config(
    optima=((64, 10, "near collapse"), (256, 10, "near collapse")),
    sweep=(128, 4, 4),
    singles=4,
    samples=1_000,
    flows=(("small", 12, 3.0, 1e-5), ("class means", 128, 3.0, 1e-6)),
    repetitions=3,
)


def run(config: Config) -> dict[str, Any]:
    """All measurements, as plain values."""
    torch.set_num_threads(1)
    product, bandwidth = speeds()
    rows = [optimum_row(*case, config) for case in config.optima]
    rows += sweep_rows(config)
    rows += [flow_row(*case, config) for case in config.flows]
    for row in rows:
        row["floor"] = row["operations"] / product
    return {
        "config": asdict(config),
        "machine": machine(),
        "product_per_second": product,
        "bytes_per_second": bandwidth,
        "rows": rows,
    }


def speeds() -> tuple[float, float]:
    """Operations a second of a product of matrices of 1,024, and bytes a second of a copy."""
    matrix = torch.ones(1024, 1024, dtype=torch.float64)
    large = torch.ones(2**23, dtype=torch.float64)
    return 2 * 1024**3 / least(lambda: matrix @ matrix, 5), 2 * 2**26 / least(large.clone, 5)


def optimum_row(dim: int, classes: int, kind: str, config: Config) -> dict[str, Any]:
    """`minimize` at one setting."""
    own = optimum.Config(dim=dim, num_classes=classes)
    problem = optimum.make_case(kind, max(config.samples, 50 * classes), own).problem
    few = config.repetitions if dim < 2000 else 1
    seconds = least(lambda: pnc.minimize(problem), few)
    found = pnc.minimize(problem)
    setting = problem.regularization.as_tensor(found.weight)[None]
    size = narrow(problem.statistics, setting).statistics.dim
    solves = 6 * 4 * dim**2 * classes  # the blocks of the space
    whole = dim**3 / 3 + solves + 2 * dim**2 * size if size < dim else 9 * dim**3
    return {
        "name": f"one optimum, d = {dim:,}, K = {classes}, {kind}",
        "seconds": seconds,
        "operations": whole + found.products * a_product(classes, size),
        "counted": f"a factor (or eigenvectors), {size:,} dimensions, {found.products} products",
        "status": found.status.name,
        "certificate": str(found.certificate),
    }


def a_product(classes: int, size: int) -> float:
    """Operations of a Hessian-vector product, preconditioned, on a space: 15 K rows twice."""
    return 2 * 15 * classes**2 * size


def sweep_rows(config: Config) -> list[dict[str, Any]]:
    """A batch of settings and its derivatives, beside one by one and in two processes."""
    dim, classes, count = config.sweep
    own = optimum.Config(dim=dim, num_classes=classes)
    reference = optimum.make_case("near collapse", config.samples, own).problem.statistics
    axes = [
        torch.logspace(*torch.tensor(ends).log10().tolist(), count, dtype=torch.float64)
        for ends in GRID.values()
    ]
    columns = torch.cartesian_prod(*axes).mT.tolist()
    grid = dict(zip(GRID, columns, strict=True))
    small = {name: column[:8] for name, column in grid.items()}
    pnc.minimize_batch(reference, **small).derivatives()
    start = time.process_time()
    found = pnc.minimize_batch(reference, **grid)
    solved = time.process_time()
    found.derivatives()
    derived = time.process_time()
    for i in torch.linspace(0, len(found) - 1, config.singles).long().tolist():
        setting = {name: column[i] for name, column in grid.items()}
        pnc.minimize(pnc.NearCollapseProblem(reference, **setting)).metrics  # noqa: B018
    single = (time.process_time() - derived) / config.singles
    size = found._parts[0].space.statistics.dim
    products, steps = (getattr(found, n).double().mean().item() for n in ("products", "steps"))
    point = 60 * classes**2 * size  # gradient, value and factors of a preconditioner
    counted = f"{size} dimensions, {products:.1f} products, {steps:.1f} steps and metrics"
    shared = {"status": f"{int(found.is_global.sum()):,} of {len(found):,} proved global"}
    return [
        {
            "name": f"sweep, d = {dim}, a setting of {len(found):,} with all metrics",
            "seconds": (solved - start) / len(found),
            "operations": products * a_product(classes, size) + (steps + 3) * point,
            "counted": counted,
            "one_by_one": single,
            "two_processes": two_processes(reference, grid),
            **shared,
        },
        {
            "name": f"sweep, d = {dim}, derivatives of a setting",
            "seconds": (derived - solved) / len(found),
            "operations": 3 * 2 * products * a_product(classes, size) + 4 * point,
            "counted": "three systems, to 1e-12: twice the products each",
            **shared,
        },
    ]


def two_processes(reference: pnc.ClassStatistics, grid: dict[str, list[float]]) -> float:
    """How many times faster (by the clock) two processes are than one."""
    halves = [{n: column[i::2] for n, column in grid.items()} for i in range(2)]
    clock = []
    for workers in (1, 2):
        with ProcessPoolExecutor(workers) as pool:
            tasks = [(reference, half) for half in halves]
            list(pool.map(_work, [(r, {n: c[:8] for n, c in h.items()}) for r, h in tasks]))
            start = time.perf_counter()
            list(pool.map(_work, tasks))
            clock.append(time.perf_counter() - start)
    return clock[0] / clock[1]


def _work(task: tuple[pnc.ClassStatistics, dict[str, list[float]]]) -> float:
    torch.set_num_threads(1)
    return float(pnc.minimize_batch(task[0], **task[1]).objective.sum())


def flow_row(name: str, dim: int, spread: float, rtol: float, config: Config) -> dict[str, Any]:
    """`central_path_flow` at the tolerance that `benchmarks.flow` finds enough."""
    own = flow.Config(time=config.time)
    samples = 120 if dim < 100 else config.samples
    case = flow.make_case(name, own, (samples, dim), spread=spread)
    options = {"lambda_w": case.lambda_w, "lambda_h": case.lambda_h, "times": [case.time]}

    def integrate() -> pnc.FlowPath:
        return pnc.central_path_flow(case.statistics, **options, rtol=rtol)

    seconds, cost = least(integrate, config.repetitions), integrate().cost
    m, k = cost.dimension, own.num_classes
    space = dim**3 / 3 + 7 * 4 * dim**2 * k + 2 * dim**2 * m if m < dim else 0.0
    # W*: three products and a factor; a state: products with ψ and an exponential of 5 K.
    weight, state = 4.4 * m**3, 12 * k * m**2 + 12 * 2 * (3 * k) ** 3
    return {
        "name": f"flow, d = {dim}, {name}, rtol {rtol:.0e}",
        "seconds": seconds,
        "operations": space + cost.evaluations * (weight + state),
        "counted": f"{m} dimensions, {cost.evaluations} evaluations of W*, {cost.steps} steps",
    }


def least(call: Callable[[], Any], repetitions: int) -> float:
    """Least processor time after one call to warm up."""
    call()
    seconds = []
    for _ in range(repetitions):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def as_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    product, bandwidth = result["product_per_second"], result["bytes_per_second"]
    ran_on = result["machine"]
    lines = [
        "# How near the floor",
        "",
        f"`python -m benchmarks.floor`: {ran_on['cpu']}, {ran_on['threads']} thread, torch "
        f"{ran_on['torch']}, load {ran_on['load']:.1f}. Processor time. Measured in the same run: "
        f"{product / 1e9:.0f} GFlop/s in a matrix product, {bandwidth / 1e9:.0f} GB/s in a copy.",
        "",
        "| what | ms | floor, ms | × floor | Mflop | counted |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [row["name"], *(f"{1e3 * row[n]:.3g}" for n in ("seconds", "floor"))]
        cells += [f"{row['seconds'] / row['floor']:.3g}", f"{row['operations'] / 1e6:.3g}"]
        lines.append(f"| {' | '.join([*cells, row['counted']])} |")
    for row in result["rows"]:
        if "one_by_one" in row:
            ratio = row["one_by_one"] / row["seconds"]
            lines += [
                "",
                f"One by one, with metrics, {1e3 * row['one_by_one']:.3g} ms a setting: "
                f"{ratio:.3g} times as much. Two processes are {row['two_processes']:.2f} times as "
                f"fast as one by the clock, at a load of {ran_on['load']:.1f}. {row['status']}.",
            ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write floor.json and floor.md."""
    command_line(
        "floor", str(__doc__), lambda quick: run(QUICK if quick else Config()), as_markdown
    )


if __name__ == "__main__":
    main()
