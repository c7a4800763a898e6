"""The house: imports point down only."""

import ast
import subprocess
import sys
from pathlib import Path

import perturb_nc

PACKAGE = Path(perturb_nc.__file__).parent
LAYERS = {  # what each part may import from the package, beside itself
    "validation": set(),
    "storage": {"validation"},
    "statistics": {"validation", "layer_files"},
    "layer_files": {"storage", "statistics"},
    "metrics": {"validation", "statistics"},
    "sample_metrics": {"validation", "statistics"},
    "theory": {"validation", "storage", "statistics", "metrics"},
    "span_statistics": {"validation", "statistics"},
    "networks": {
        "validation",
        "storage",
        "statistics",
        "span_statistics",
        "metrics",
        "sample_metrics",
    },
    "study": {
        "layer_files",
        "validation",
        "storage",
        "statistics",
        "metrics",
        "sample_metrics",
        "theory",
        "networks",
    },
}
ALONE = {
    "cvxpy": {"theory/lifted.py"},
    "matplotlib": {"study/plots.py", "study/maps.py"},
    "dash": {"explore_page.py"},
    "plotly": {"study/report.py", "study/report_figures.py"},
    "jinja2": {"study/report.py"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole = node.module == "perturb_nc"
            yield from (f"perturb_nc.{a.name}" for a in node.names) if whole else [node.module]


def test_imports_point_down_only():
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        part = relative.parts[0].removesuffix(".py")
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top in ALONE:
                assert relative.as_posix() in ALONE[top], f"{relative} imports {name}"
            if top == "perturb_nc" and part in LAYERS:
                target = rest.split(".")[0]
                assert target in LAYERS[part] | {part}, f"{relative} imports {name}"


def test_the_package_imports_without_heavy_dependencies():
    heavy = {"cvxpy", "matplotlib", "sklearn", "typer", "rich", "xarray", "zarr", "plotly", "dash"}
    heavy |= {"jinja2", "scipy.optimize", "scipy.integrate", "perturb_nc.networks"}
    code = f"import sys, perturb_nc; print([m for m in {sorted(heavy)} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert all(hasattr(perturb_nc, name) for name in perturb_nc.__all__)


def test_the_command_loads_what_a_command_needs_when_it_runs():
    heavy = ["cvxpy", "matplotlib", "sklearn", "xarray", "plotly", "dash", "jinja2"]
    heavy += ["scipy.optimize", "perturb_nc.networks"]
    code = f"import sys, perturb_nc.cli; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
