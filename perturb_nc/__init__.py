"""Perturbation analysis of near neural collapse (Tirer, Huang & Niles-Weed 2023).

Measure the layers of a network (`collect_statistics`), predict what the model puts after them
(`NearCollapseProblem`, `minimize`, `central_path_flow`), and hold the two side by side
(`compare_layers`). The names are listed, by purpose, in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
