"""The deep unconstrained features model (Súkeník et al. 2023)."""
