"""What the near-collapse model predicts, from class statistics alone."""
