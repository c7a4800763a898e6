"""A model of your own, measured and predicted with the installed package alone."""

from pathlib import Path

import torch

import perturb_nc as pnc
from perturb_nc import networks


class Residual(torch.nn.Module):
    def __init__(self, width: int = 64, depth: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(depth))
        self.head = torch.nn.Linear(width, classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.head(x)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    data, model, decay = networks.load_dataset("digits"), Residual(), 5e-3
    targets = torch.nn.functional.one_hot(data.labels).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=decay)
    for _ in range(400):
        loss = 0.5 * (model(data.inputs) - targets).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    lambda_w = data.num_classes * decay  # what this loss and this weight decay amount to
    layers = pnc.collect_statistics(model, [(data.inputs, data.labels)], at="input")
    comparison = pnc.compare_layers(layers, name="mine", lambda_w=lambda_w, pairs=False)
    pnc.save_layers(layers, folder / "measured.safetensors")
    pnc.write_report([comparison], folder / "report.html")

    at_head = comparison.sel(layer="head", quantity="nc1")
    predicted, measured = at_head.predicted.sel(model="path").item(), at_head.measured.item()
    print(f"NC1 at the head: predicted {predicted:.3f}, measured {measured:.3f}")


if __name__ == "__main__":
    main(Path())
