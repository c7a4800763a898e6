"""The near-collapse model with cross-entropy in place of the squared loss."""

# What registers cross-entropy with `minimize`, `certify` and the responses comes with the problem.
from perturb_nc.theory.cross_entropy import certificate, direction, minimize, response

__all__ = ["certificate", "direction", "minimize", "response"]
