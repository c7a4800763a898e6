"""The optimum of (1) near collapse, in closed form (docs §4.7)."""
