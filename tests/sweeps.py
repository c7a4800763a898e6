"""Grids of sweeps."""

from perturb_nc.study.sweep_plan import STATUSES

GRID = {"lambda_w": [1e-3, 1e-2, 0.3], "lambda_h": [1e-3, 0.1], "beta": [0.3, 1.0, 5.0]}
CONVERGED = STATUSES.index("converged")
NEAR = {"lambda_w": [0.03, 0.3, 12.0], "lambda_h": [0.1, 0.2], "beta": [0.7, 2.0]}
SMALL = {"lambda_w": [0.01, 0.1], "lambda_h": [0.1], "beta": [1.0, 2.0, 3.0], "chunk": 2}
SMALL |= {"flow_times": [1.0]}
