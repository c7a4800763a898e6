"""Networks, their data, and the measurement of their layers."""
