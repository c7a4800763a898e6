"""The central-path gradient flow (Tirer et al. 2023, Theorem 3.1) and chains of optima."""
