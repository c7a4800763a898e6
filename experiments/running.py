"""What the experiments on trained networks share: options, and runs that are kept and resumed."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from perturb_nc.networks import Dataset, TrainingConfig, load_dataset
from perturb_nc.storage import write_json


def options(doc: str, folder: Path, quick: str) -> argparse.Namespace:
    """--quick, --output and --device, and the settings of torch that go with them."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--output", type=Path, default=folder)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="cuda where there is one")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # on a busy machine two threads can be slower than one
    return chosen


def data_for(name: str, samples: int | None, device: str, split: str = "train") -> Dataset:
    """A data set on the device; the first `samples` of it, or all."""
    data = load_dataset(name, split=split)
    if samples is not None:
        data = Dataset(data.name, data.inputs[:samples], data.labels[:samples], data.num_classes)
    return data.to(device)


def on_gpu(config: TrainingConfig, device: str) -> dict[str, Any]:
    """Changes of a training configuration for images on a GPU: bfloat16 and channels last."""
    if not device.startswith("cuda"):
        return {}
    return {"precision": "bfloat16", "channels_last": True}


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """The record in a JSON file; made and written first if it is not there."""
    if not path.is_file():
        write_json(path, make())
        print(f"{path.stem}: done", flush=True)
    return json.loads(path.read_text(encoding="utf8"))
