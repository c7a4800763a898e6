"""The main job on real data: train, measure every layer, predict what follows, certify."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from perturb_nc.layer_files import save_layers
from perturb_nc.measure.dataset import batches
from perturb_nc.measure.extraction import collect_features, collect_statistics
from perturb_nc.networks.architectures import ResidualMLP
from perturb_nc.networks.checkpoints import EpochRecord
from perturb_nc.networks.data import load_dataset
from perturb_nc.networks.training import TrainingConfig, train
from perturb_nc.show.panels import whole
from perturb_nc.show.plots import plot_layers
from perturb_nc.show.report.page import write_report
from perturb_nc.storage import replacing, write_json
from perturb_nc.study.compare import compare_layers
from perturb_nc.study.predict import LayerPrediction, predict_layers
from perturb_nc.study.resampling import sampling_intervals
from perturb_nc.validation import nonnegative, positive

WIDTH, BLOCKS = 64, 5
TRAINING = TrainingConfig(
    epochs=200, batch_size=64, learning_rate=0.05, milestones=(100, 150), weight_decay=5e-3
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo found and the files it wrote."""

    predictions: dict[str, LayerPrediction]
    hyperparameters: dict[str, float]
    training: EpochRecord
    test_accuracy: float
    files: list[Path]


def run_demo(
    folder: str | Path,
    *,
    lambda_h: float,
    beta: float,
    config: TrainingConfig = TRAINING,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> DemoResult:
    """Train a residual MLP on scikit-learn's digits and hold the model against its layers.

    λ_W is not chosen: the squared loss with weight decay wd on the last layer has λ_W = K·wd.
    λ_H and β are the caller's choice, the same for all layers. Written to `folder`:
    statistics.safetensors (every layer), predictions.json, layers.png, report.html, and
    checkpoint.pt, from which an interrupted run goes on.

    Raises:
        ValueError: hyper-parameters out of range, or a checkpoint of another run in `folder`.
    """
    # λ_H and β meet the model only after the training: refuse them before it.
    positive(nonnegative(lambda_h, "lambda_h") + nonnegative(beta, "beta"), "lambda_h + beta")
    folder = Path(folder)
    train_set, test_set = load_dataset("digits"), load_dataset("digits", split="test")
    torch.manual_seed(config.seed)
    model = ResidualMLP(train_set.inputs.shape[1], WIDTH, BLOCKS, train_set.num_classes)
    checkpoint = folder / "checkpoint.pt"
    history = train(model, train_set, config, checkpoint=checkpoint, on_epoch=on_epoch)
    layers = ["embed", *(f"blocks.{i}" for i in range(BLOCKS))]
    statistics = collect_statistics(model, batches(train_set, 512), layers=layers)
    with torch.no_grad():
        outputs = model.eval()(test_set.inputs)
    test_accuracy = (outputs.argmax(1) == test_set.labels).double().mean().item()
    decay = config.weight_decay
    if config.last_layer_weight_decay is not None:
        decay = config.last_layer_weight_decay
    lambda_w = train_set.num_classes * decay
    predictions = predict_layers(
        statistics,
        lambda_w=lambda_w,
        lambda_h=lambda_h,
        beta=beta,
        weights={layers[-1]: model.head.weight.detach()},
    )
    hyperparameters = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    result = DemoResult(predictions, hyperparameters, history[-1], test_accuracy, [])
    _write(folder, result, config)
    save_layers(statistics, folder / "statistics.safetensors", {"data": "digits, train"})
    samples = collect_features(model, batches(train_set, 512), layers=layers)
    intervals = sampling_intervals(*samples)
    comparison = compare_layers(
        statistics, name="demo", lambda_w=lambda_w, predictions=predictions, intervals=intervals
    ).assign_attrs(parameters_from="the weight decay (λ_W) and a choice by hand (λ_H, β)")
    write_report([comparison], folder / "report.html", title="A residual MLP on digits")
    names = ("statistics.safetensors", "predictions.json", "layers.png", "report.html")
    result.files.extend(folder / name for name in names)
    return result


def _write(folder: Path, result: DemoResult, config: TrainingConfig) -> None:
    record = {
        "config": {**asdict(config), "width": WIDTH, "blocks": BLOCKS, "torch": torch.__version__},
        "hyperparameters": result.hyperparameters,
        "training": asdict(result.training),
        "test_accuracy": result.test_accuracy,
        "layers": {name: p.as_dict() for name, p in result.predictions.items()},
    }
    write_json(folder / "predictions.json", record)
    symbols = {"lambda_w": r"$\lambda_W$", "lambda_h": r"$\lambda_H$", "beta": r"$\beta$"}
    values = ", ".join(f"{symbols[name]} = {v:g}" for name, v in result.hyperparameters.items())
    title = f"Residual MLP on digits: each layer, and the model's optimum after it ({values})"
    with replacing(folder / "layers.png") as path:
        whole(plot_layers, result.predictions, title=title).savefig(path, dpi=150)
