"""Experiments: one file each, run as `python -m experiments.NAME [--quick]` from the repository."""
