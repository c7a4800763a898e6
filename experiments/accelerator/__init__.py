"""Everything that waits for an accelerator, in pieces: `python -m experiments.accelerator`."""
