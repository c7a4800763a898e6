"""The monitor and the statistics in the tools that people train with; each module needs its own."""
