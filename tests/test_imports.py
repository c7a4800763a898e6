"""The house: imports point down only."""

import ast
import subprocess
import sys
from pathlib import Path

import perturb_nc

PACKAGE = Path(perturb_nc.__file__).parent
GROUND = {
    "validation",
    "accumulation",
    "storage",
    "moments",
    "statistics",
    "span_statistics",
    "layer_samples",
    "layer_files",
}
GROUND |= {"joint_statistics", "mean_geometry", "metrics", "metric_tangents", "sampling"}
GROUND |= {"covariance_metrics", "kernel_alignment", "metric_step", "sample_metrics"}
GROUND |= {
    "layer_files",
    "leftovers",
    "summary",
    "within_metrics",
    "frame_metrics",
    "duality_metrics",
}
LAYERS = {  # what each part may import from the package, beside itself
    "validation": set(),
    "leftovers": set(),
    "storage": {"leftovers", "validation"},
    "moments": set(),
    "summary": set(),
    "accumulation": {"validation"},
    "statistics": {"summary", "validation", "moments", "accumulation"},
    "span_statistics": {"summary", "validation", "moments", "statistics"},
    "joint_statistics": {"summary", "statistics"},
    "layer_samples": {"summary", "validation", "statistics"},
    "layer_files": {"validation", "storage", "statistics", "span_statistics", "joint_statistics"}
    | {"layer_samples"},
    "mean_geometry": {"moments"},
    "within_metrics": {"moments", "mean_geometry"},
    "frame_metrics": {"moments", "mean_geometry"},
    "duality_metrics": {"moments", "mean_geometry"},
    "metrics": {"summary", "validation", "moments", "span_statistics"}
    | {"within_metrics", "frame_metrics", "duality_metrics"},
    "metric_step": {"moments", "mean_geometry"},
    "metric_tangents": {"moments", "mean_geometry", "metric_step"},
    "covariance_metrics": {"moments", "mean_geometry", "statistics"},
    "sampling": {"summary", "moments", "mean_geometry", "statistics", "span_statistics", "metrics"},
    "kernel_alignment": {"moments", "statistics", "joint_statistics", "sampling"},
    "sample_metrics": {"validation", "statistics"},
    "theory": GROUND,
    "measure": GROUND,
    "networks": GROUND | {"measure"},
    "study": GROUND | {"theory", "measure"},
    "show": GROUND | {"theory", "measure", "study"},
    "cli": GROUND | {"theory", "measure", "networks", "study", "show"},
}
FACES = {"__init__": set(), "__main__": {"cli"}}  # names alone, in __init__.pyi, are imported later
ALONE = {
    "cvxpy": {"theory/lifted.py"},
    "matplotlib": {
        f"show/{name}.py" for name in ("panels", "plots", "maps", "spectra", "bench", "notebook")
    },
    "dash": {"show/explore/page.py", "show/explore/guard.py"},
    "plotly": {
        f"show/report/{name}.py"
        for name in ("along", "bench", "drawing", "overview", "page", "spectrum")
    },
    "jinja2": {"show/report/page.py"},
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
            if top == "perturb_nc":
                target = rest.split(".")[0]
                assert target in (LAYERS | FACES)[part] | {part}, f"{relative} imports {name}"


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
    code = f"import sys, perturb_nc.cli.main; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
