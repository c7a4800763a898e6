"""Tables, plots and pages: what draws; nothing here computes."""
