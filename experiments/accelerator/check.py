"""Every path of the library on the device against the CPU, with the tolerances that are allowed.

Both sides get the same float64 (or float32) inputs, made on the CPU. Solvers stop at a relative
gradient norm, not at rounding, so that their optima may differ by more than their arithmetic.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

import perturb_nc as pnc
from experiments.accelerator.setting import Setting
from perturb_nc.measure import joint_statistics
from perturb_nc.networks import MLP, Dataset, ResNet, TrainingConfig, train
from perturb_nc.theory import central_path_flows, chain, cross_entropy_flow

STRENGTHS = {"lambda_w": 5e-2, "lambda_h": 5e-3, "beta": 1.0}
ROUNDING, SOLVED, INTEGRATED = 1e-10, 1e-7, 1e-6
SINGLE, BRAIN = 2e-3, 5e-2  # float32 (TF32 in convolutions), bfloat16

Found = dict[str, Tensor]


@dataclass(frozen=True)
class Inputs:
    """Features of K classes, images, and two small networks, on one device."""

    features: Tensor
    labels: Tensor
    images: Tensor
    mlp: torch.nn.Module
    resnet: torch.nn.Module

    @classmethod
    def make(cls, device: torch.device, tiny: bool) -> "Inputs":
        n, d, k = (60, 8, 3) if tiny else (4_000, 128, 10)
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(n) % k
        means = torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=torch.float64)).Q.mT
        noise = torch.randn(n, d, generator=generator, dtype=torch.float64) / d**0.5
        images = torch.randn(min(n, 500), 3, 32, 32, generator=generator)
        torch.manual_seed(0)
        mlp = MLP(d, (16, 16) if tiny else (256, 256), k, batch_norm=True)
        resnet = ResNet(3, k, stages=(1, 1), width=4 if tiny else 32)
        return cls(
            *(x.to(device) for x in (means[labels] + 0.5 * noise, labels, images)),
            *(model.to(device).eval() for model in (mlp, resnet)),
        )

    @property
    def statistics(self) -> pnc.ClassStatistics:
        """Of the features, float64."""
        return pnc.ClassStatistics.from_features(self.features, self.labels)

    @property
    def problem(self) -> pnc.NearCollapseProblem:
        """Problem (1)."""
        return pnc.NearCollapseProblem(self.statistics, **STRENGTHS)


def _of(s: pnc.ClassStatistics, name: str = "") -> Found:
    return {f"{name}means": s.means, f"{name}within": s.within}


def statistics(x: Inputs) -> Found:
    """Float64 sums of float32 features, merged from two halves; the metrics."""
    half = len(x.labels) // 2
    single = x.features.float()
    first, last = (
        pnc.ClassStatistics.from_features(single[rows], x.labels[rows])
        for rows in (slice(half), slice(half, None))
    )
    whole = first.merge(last)
    metrics = pnc.collapse_metrics(whole).as_dict()
    return {
        **_of(whole),
        "metrics": x.labels.new_tensor([metrics["nc1"], metrics["nc1_trace"]], dtype=torch.float64),
    }


def optimum(x: Inputs) -> Found:
    """`minimize` with its certificate."""
    found = pnc.minimize(x.problem)
    numbers = [found.objective, found.certificate.spectral_ratio]
    return {
        "weight": found.weight,
        **_of(found.statistics),
        "numbers": found.weight.new_tensor(numbers),
    }


def batch(x: Inputs) -> Found:
    """`minimize_batch`: objectives and metrics."""
    settings = {k: [v, 2 * v, 4 * v] for k, v in STRENGTHS.items()}
    found = pnc.minimize_batch(x.statistics, **settings)
    return {"objective": found.objective, "nc1": found.metrics["nc1"]}


def responses(x: Inputs) -> Found:
    """The exact responses of the optimum to H0 and to λ_W, λ_H, β."""
    solution = pnc.minimize(x.problem, tol=1e-12)
    turned = x.features.roll(1, 0) - x.features
    moved = pnc.linear_response(solution, x.features, x.labels).apply(turned)
    slopes = pnc.hyperparameter_response(solution)
    found = {f"slope_{p}": slopes.metrics[p]["nc1_trace"] for p in STRENGTHS}
    return {"features": moved, **{k: torch.as_tensor(v) for k, v in found.items()}}


def vicinity(x: Inputs) -> Found:
    """The closed form near collapse, alone and in a batch."""
    near = pnc.small_vicinity(x.statistics, **STRENGTHS)
    many = pnc.small_vicinity_batch(x.statistics, **{**STRENGTHS, "beta": [0.5, 1.0, 2.0]})
    return {"weight": near.weight, **_of(near.statistics), **many.metrics}


def flows(x: Inputs) -> Found:
    """The central path: exponential steps, a batch, the anchored flow, the judge DOP853."""
    setting = {"lambda_w": STRENGTHS["lambda_w"], "lambda_h": STRENGTHS["lambda_h"]}
    times = [0.0, 0.5, 2.0]
    path = pnc.central_path_flow(x.statistics, **setting, times=times, rtol=1e-8)
    judge = pnc.central_path_flow(
        x.statistics, **setting, times=times, method="DOP853", rtol=1e-9, atol=1e-12
    )
    anchored = pnc.central_path_flow(x.statistics, **setting, times=times, beta=0.5, rtol=1e-8)
    pair = central_path_flows(
        x.statistics, **{k: [v, 2 * v] for k, v in setting.items()}, times=times, rtol=1e-8
    )
    paths = {"exponential": path, "DOP853": judge, "anchored": anchored, "batch": pair[1]}
    return {name: p.statistics(-1).means for name, p in paths.items()}


def chains(x: Inputs) -> Found:
    """A cascade of optima, and the chain of layers."""
    setting = {"lambda_w": STRENGTHS["lambda_w"], "lambda_h": STRENGTHS["lambda_h"]}
    last = pnc.cascade(x.statistics, **setting, betas=[2.0, 2.0]).solutions[-1].statistics
    line = chain(x.statistics, **setting, betas=[2.0, 2.0]).statistics(0)
    return {**_of(last, "cascade "), **_of(line, "chain ")}


def cross_entropy(x: Inputs) -> Found:
    """The optimum with cross-entropy and a bias, and its flow."""
    problem = pnc.CrossEntropyProblem(x.features, x.labels, **STRENGTHS)
    found = pnc.minimize(problem)
    flow = cross_entropy_flow(problem, times=[0.0, 0.2])
    return {"weight": found.weight, **_of(found.statistics), **_of(flow.statistics(-1), "flow ")}


def deep(x: Inputs) -> Found:
    """Gradient descent of the deep unconstrained features model, and L-BFGS."""
    model = pnc.deep.DeepUFM(
        torch.arange(3, device=x.labels.device), [6, 6], lambdas=5e-3, lambda_h=5e-3, seeds=range(4)
    )
    down = pnc.deep.gradient_descent(model, learning_rate=0.1, max_steps=50, check_every=50)
    return {"objective": down.objective}


def intervals(x: Inputs) -> Found:
    """Jackknife intervals."""
    found = pnc.sampling_intervals({"": x.features}, x.labels).sel(quantity=["nc1", "cdnv"])
    return {"intervals": torch.from_numpy(found.values).to(x.labels.device)}


def extraction(x: Inputs) -> Found:
    """Statistics of layers from hooks: pooled, in the span, jointly; float32."""
    names = ["stem", "blocks.0", "blocks.1"]
    labels = x.labels[: len(x.images)]
    batches = list(zip(x.images.split(100), labels.split(100), strict=True))
    pooled = pnc.collect_statistics(x.resnet, batches, layers=names)
    wide = pnc.collect_statistics(
        x.resnet, batches, layers=names[:1], reduce="flatten", covariance="span"
    )
    both = joint_statistics(x.resnet, batches, [("stem", "blocks.0")])["stem", "blocks.0"]
    single = [(x.features.float(), x.labels)]
    dense = pnc.collect_statistics(x.mlp, single, layers=["blocks.1"])["blocks.1"]
    return {
        **_of(pooled["blocks.1"]), "span": wide["stem"].within, "cross": both.cross,
        **_of(dense, "mlp "),
    }  # fmt: skip


def extraction_bfloat16(x: Inputs) -> Found:
    """The same layers under autocast to bfloat16; sums stay float64."""
    labels = x.labels[: len(x.images)]
    with torch.autocast(x.images.device.type, torch.bfloat16):
        found = pnc.collect_statistics(x.resnet, [(x.images, labels)], layers=["blocks.1"])
    return _of(found["blocks.1"])


def training(x: Inputs) -> Found:
    """A few epochs of SGD from one initialisation, in float32."""
    data = Dataset("features", x.features.float(), x.labels, int(x.labels.max()) + 1)
    torch.manual_seed(1)
    model = MLP(x.features.shape[1], (16,), data.num_classes).to(x.features.device)
    train(model, data, TrainingConfig(epochs=2, batch_size=50, learning_rate=0.05))
    return {"weight": model.head.weight.detach()}


CHECKS: dict[str, tuple[Callable[[Inputs], Found], float]] = {
    "statistics": (statistics, ROUNDING),
    "optimum": (optimum, SOLVED),
    "batch": (batch, SOLVED),
    "responses": (responses, SOLVED),
    "vicinity": (vicinity, ROUNDING),
    "flows": (flows, INTEGRATED),
    "chains": (chains, SOLVED),
    "cross_entropy": (cross_entropy, INTEGRATED),
    "deep": (deep, SOLVED),
    "intervals": (intervals, SOLVED),
    "extraction": (extraction, SINGLE),
    "extraction_bfloat16": (extraction_bfloat16, BRAIN),
    "training": (training, SINGLE),
}


def difference(found: Found, wanted: Found) -> float:
    """Largest relative difference in norm."""
    return max(
        ((found[k].double().cpu() - v.double().cpu()).norm() / v.double().norm()).item()
        for k, v in wanted.items()
    )


def one(name: str, device: torch.device, tiny: bool) -> dict[str, Any]:
    """A check: how far the device is from the CPU, and how far it may be."""
    compute, tolerance = CHECKS[name]
    here = compute(Inputs.make(device, tiny))
    elsewhere = {k: v.device.type for k, v in here.items() if v.device.type != device.type}
    gap = difference(here, compute(Inputs.make(torch.device("cpu"), tiny)))
    return {
        "difference": gap, "tolerance": tolerance, "holds": gap <= tolerance,
        "on_another_device": elsewhere,
    }  # fmt: skip


@contextmanager
def one_process(device: torch.device) -> Iterator[str]:
    """A process group of this process alone: NCCL on CUDA, gloo otherwise."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = distributed.HashStore()
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield backend
    finally:
        distributed.destroy_process_group()


def reduced(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Statistics reduced over a process group of one rank: the same numbers."""
    x = Inputs.make(device, tiny)
    builder = pnc.StatisticsBuilder(int(x.labels.max()) + 1)
    builder.update(x.features, x.labels)
    with one_process(device) as backend:
        total = builder.all_reduce().result()
    gap = difference(_of(total), _of(x.statistics))
    return {"backend": backend, "difference": gap, "holds": gap <= ROUNDING}


def memory(setting: Setting) -> dict[str, Any]:
    """Peak bytes of the device: a forward pass of a ResNet-18, and with every block measured."""
    if setting.device.type != "cuda":
        return {}
    model = ResNet(3, 10, width=4 if setting.tiny else 64).to(setting.device).eval()
    images = torch.randn(250, 3, 32, 32, device=setting.device)
    labels = torch.arange(250, device=setting.device) % 10

    def peak(call: Callable[[], Any]) -> int:
        torch.cuda.reset_peak_memory_stats(setting.device)
        call()
        setting.wait()
        return torch.cuda.max_memory_allocated(setting.device)

    with torch.no_grad():
        forward = peak(lambda: model(images))
    measured = peak(lambda: pnc.collect_statistics(model, [(images, labels)]))
    return {
        "forward": forward, "measured": measured,
        "total": torch.cuda.get_device_properties(setting.device).total_memory,
    }  # fmt: skip


def make(setting: Setting, name: str) -> dict[str, Any]:
    """The piece."""
    rows = {}
    for check in CHECKS:
        try:
            rows[check] = one(check, setting.device, setting.tiny)
        except Exception as error:  # what fails on a device is a result, and no reason to stop
            rows[check] = {"holds": False, "error": f"{type(error).__name__}: {error}"[:500]}
        print(f"{name} {check}: {rows[check]}", flush=True)
    return {
        "checks": rows,
        "one_rank": reduced(setting.device, setting.tiny),
        "memory": memory(setting),
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }
