"""Figure 1 of Tirer et al. 2023: the spectrum of F_kk at an exactly collapsed H0.

For several λ_H: the exact values for this β, the paper's O(1/β) values, and the singular values of
the block F_kk found numerically, column by column, from the linear response of the minimiser.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, manifest
from perturb_nc.storage import write_json


@dataclass(frozen=True)
class Config:
    """The setting of the paper's figure."""

    num_classes: int = 4
    dim: int = 10
    samples_per_class: int = 10
    lambda_w: float = 2**0.5
    lambda_h: tuple[float, ...] = (0.01, 0.05, 0.1, 0.3, 0.5)
    beta: float = 100.0


def run(config: Config) -> dict[str, Any]:
    """The spectra for every λ_H."""
    curves = []
    for lambda_h in config.lambda_h:
        arguments = {
            "num_classes": config.num_classes,
            "dim": config.dim,
            "lambda_w": config.lambda_w,
            "lambda_h": lambda_h,
        }
        spectrum = pnc.near_collapse_spectrum(
            **arguments, samples_per_class=config.samples_per_class, beta=config.beta
        )
        exact = np.repeat(spectrum.block_values, spectrum.block_multiplicities)
        linear = np.repeat(spectrum.large_beta_block_values, spectrum.block_multiplicities)
        curves.append(
            {
                "lambda_h": lambda_h,
                "exact": np.sort(exact)[::-1],
                "large_beta": np.sort(linear)[::-1],
                "numerical": numerical_block(config, pnc.exact_collapse(**arguments), lambda_h),
                "off_block": spectrum.off_block_value,
                "off_block_large_beta": spectrum.large_beta_off_block_value,
            }
        )
    return {"manifest": manifest(config), "curves": curves}


def numerical_block(
    config: Config, optimum: pnc.theory.ExactCollapse, lambda_h: float
) -> np.ndarray:
    """Singular values of F_kk for the first class, from the response to each entry of H0."""
    n, d = config.samples_per_class, config.dim
    labels = torch.arange(config.num_classes).repeat_interleave(n)
    reference = optimum.means[labels]
    problem = pnc.NearCollapseProblem(
        pnc.ClassStatistics.from_features(reference, labels),
        lambda_w=config.lambda_w,
        lambda_h=lambda_h,
        beta=config.beta,
    )
    response = pnc.linear_response(pnc.minimize(problem), reference, labels)
    columns = []
    for entry in range(n * d):
        unit = torch.zeros_like(reference)
        unit.view(-1)[entry] = 1.0
        columns.append(response.apply(unit)[:n].flatten())
    return torch.linalg.svdvals(torch.stack(columns, dim=1)).numpy()


def main() -> None:
    """Command line."""
    chosen = options(
        __doc__, RESULTS / "near_collapse_spectrum.json", "two λ_H and three samples a class"
    )
    config = Config()
    if chosen.quick:
        config = replace(config, lambda_h=(0.05, 0.3), samples_per_class=3)
    if is_finished(chosen.output, config):
        return
    write_json(chosen.output, run(config))
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()
