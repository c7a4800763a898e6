"""Tables, axes and pages to look into, and features to draw."""

import io
import shutil

import torch
from matplotlib.figure import Figure
from rich.console import Console

import perturb_nc as pnc

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


def printed(table, width=80):
    console = Console(file=io.StringIO(), width=width, markup=False)
    console.print(table)
    return console.file.getvalue().splitlines()


def features(scale):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3
    noise = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    return pnc.ClassStatistics.from_features(scale * noise + torch.eye(3, 6)[labels], labels)


def axes(count=1):
    return Figure().subplots(1, count, squeeze=False)[0]
