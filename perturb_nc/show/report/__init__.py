"""One self-contained HTML page of compared networks."""
