"""The central-path gradient flow (Tirer et al. 2023, Section 3) and chains of optima."""
