"""The command `perturb-nc demo`."""

from pathlib import Path
from typing import TYPE_CHECKING

from perturb_nc.cli.arguments import Beta, Folder, Json, LambdaH, progress_bar, refuse_file

if TYPE_CHECKING:
    from perturb_nc.networks.checkpoints import EpochRecord


def demo(
    output: Folder = Path("results/demo"),
    lambda_h: LambdaH = 5e-3,
    beta: Beta = 2.0,
    as_json: Json = False,
) -> None:
    """Train on the embedded digits, measure every layer, predict what follows, certify."""
    refuse_file(output)
    from perturb_nc.cli.demo_run import TRAINING, run_demo
    from perturb_nc.show import layer_tables, terminal
    from perturb_nc.storage import json_text

    with progress_bar("training a residual MLP on digits", TRAINING.epochs) as update:

        def on_epoch(record: "EpochRecord") -> None:
            """Moves the bar."""
            update(record.epoch)

        result = run_demo(output, lambda_h=lambda_h, beta=beta, config=TRAINING, on_epoch=on_epoch)
    if as_json:
        print(json_text({name: p.as_dict() for name, p in result.predictions.items()}))
        return
    terminal.show(
        f"train accuracy {result.training.accuracy:.3f}, test {result.test_accuracy:.3f}. "
        "λ_W is K × the weight decay of the last layer; λ_H and β are choices (see --help).",
        layer_tables.prediction_table(result.predictions, result.hyperparameters),
        *(f"wrote {path}" for path in result.files),
    )
