"""The near-collapse model with cross-entropy in place of the squared loss."""

# What registers cross-entropy with `minimize` and `certify` comes with the problem itself.
from perturb_nc.theory.cross_entropy import certificate, minimize

__all__ = ["certificate", "minimize"]
