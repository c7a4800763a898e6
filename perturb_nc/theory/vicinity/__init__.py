"""The optimum of (1) near collapse, in closed form (DESIGN §4.7)."""
