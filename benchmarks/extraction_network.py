"""All layers of a ResNet-18 beside a forward pass alone: a part of `benchmarks.extraction`."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perturb_nc import collect_statistics
from perturb_nc.networks import ResNet


@dataclass(frozen=True)
class Network:
    """Width of the first stage, images, and how they are read."""

    width: int = 64
    samples: int = 10_000
    classes: tuple[int, ...] = (10, 100)
    batch_size: int = 100
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Images:
    """Batches of CIFAR-10's shape, kept as bytes."""

    pixels: Tensor
    labels: Tensor
    batch_size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(images in float32, labels)."""
        size = self.batch_size
        parts = zip(self.pixels.split(size), self.labels.split(size), strict=True)
        return ((x.float() / 255 - 0.5, y) for x, y in parts)


def beside_forward(config: Network, num_classes: int) -> dict[str, Any]:
    """All layers of a ResNet-18, pooled, and a forward pass over the same images alone."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    samples = config.samples
    model = ResNet(3, num_classes, width=config.width).eval()
    pixels = torch.randint(256, (samples, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.arange(samples) % num_classes, config.batch_size)

    @torch.inference_mode()
    def forward(images: Images) -> None:
        for inputs, _ in images:
            model(inputs)

    few = Images(pixels[:num_classes], torch.arange(num_classes), config.batch_size)
    forward(few)  # and a warm-up
    collect_statistics(model, few)
    alone, alone_bytes, _ = watched(lambda: forward(images))
    ours, our_bytes, found = watched(lambda: collect_statistics(model, images))
    return {
        "num_samples": samples,
        "num_classes": num_classes,
        "dims": {name: s.dim for name, s in found.items()},
        "threads": config.threads,
        "batch_size": config.batch_size,
        "seconds": ours,
        "forward_seconds": alone,
        "bytes": our_bytes,
        "forward_bytes": alone_bytes,
    }


def watched(call: Callable[[], Any]) -> tuple[float, int | None, Any]:
    """Seconds, bytes at the peak beyond those before (where Linux says them), and the answer."""
    before = _peak(reset=True)
    start = time.perf_counter()
    answer = call()
    seconds, after = time.perf_counter() - start, _peak(reset=False)
    return seconds, None if before is None or after is None else after - before, answer


def _peak(*, reset: bool) -> int | None:
    """Bytes of memory in use at most, since the last reset to those in use now."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf8")
        lines = Path("/proc/self/status").read_text(encoding="utf8").splitlines()
    except OSError:
        return None
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith("VmHWM")), None)


def network_table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    lines = ["", "## All layers of a ResNet-18 beside a forward pass", ""]
    lines += ["| N | K | layers | threads | batch | forward, s | all layers, s | ratio | MiB |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        numbers = (row["num_samples"], row["num_classes"], len(row["dims"]), row["threads"])
        cells = [f"{n:,}" for n in (*numbers, row["batch_size"])]
        cells += [f"{row['forward_seconds']:.3g}", f"{row['seconds']:.3g}"]
        cells += [f"{row['seconds'] / row['forward_seconds']:.3f}", _memory(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "MiB: beyond model and images at the peak; in brackets, a forward pass."]


def _memory(row: dict[str, Any]) -> str:
    sizes = [row[name] for name in ("bytes", "forward_bytes")]
    ours, alone = ("–" if size is None else f"{size / 2**20:.0f}" for size in sizes)
    return f"{ours} ({alone})"
