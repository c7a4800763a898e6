"""The house: imports point down only."""

import ast
import graphlib
import statistics
import subprocess
import sys
from pathlib import Path

import perturb_nc

PACKAGE = Path(perturb_nc.__file__).parent
GROUND = {  # what each module of it may import from the package
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
}
BELOW = set(GROUND) | {"metrics"}
LAYERS = GROUND | {  # a room may import these, beside itself
    "metrics": set(GROUND),
    "theory": BELOW,
    "measure": BELOW,
    "networks": BELOW | {"measure"},
    "study": BELOW | {"theory", "measure"},
    "show": BELOW | {"theory", "measure", "study"},
    "cli": BELOW | {"theory", "measure", "networks", "study", "show"},
}
FACES = {"__init__": set(), "__main__": {"cli"}}  # names alone, in __init__.pyi, are imported later
ALONE = {
    "cvxpy": {"theory/lifted.py"},
    "matplotlib": {
        f"show/{name}.py"
        for name in ("bench", "maps", "notebook", "panels", "plots", "spectra", "vicinity")
    },
    "dash": {f"show/explore/{name}.py" for name in ("page", "layout", "guard")},
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


def test_no_imports_run_in_a_circle():
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(parts).removesuffix(".__init__")] = path
    graph = {name: set(modules) & set(targets(path)) - {name} for name, path in modules.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(modules)


def targets(path):
    """Modules that a file imports, and what may be one: `from room import module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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


def bodies():
    """Every function of the package, and how many lines there are below its docstring."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body:
                    name = f"{path.relative_to(PACKAGE)}: {node.name}"
                    yield name, body[-1].end_lineno - body[0].lineno + 1


def test_modules_and_functions_are_short():
    paths = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    lines = {p: len(p.read_text(encoding="utf8").splitlines()) for p in paths}
    assert [str(path) for path, count in lines.items() if count > 350] == []
    assert statistics.median(lines.values()) <= 124  # one concept a module; the aim is 120
    assert [name for name, count in bodies() if count > 50] == []


ELSEWHERE = {  # modules that one test file of another name covers
    "__main__.py": "cli/test_main.py",
    "cli/feature_files.py": "cli/test_stats.py",
    "cli/scripts.py": "cli/test_measure.py",
    "metrics/step.py": "metrics/test_tangents.py",
    "metrics/within_tangents.py": "metrics/test_tangents.py",
    "metrics/frame_tangents.py": "metrics/test_tangents.py",
    "metrics/duality_tangents.py": "metrics/test_tangents.py",
    "networks/digit_cnn.py": "networks",
    "show/bench_tables.py": "cli/test_bench.py",
    "show/explore/layout.py": "show/explore/test_page.py",
    "show/explore/scales.py": "show/explore/test_page.py",
    "show/report": "show/report/test_page.py",  # the parts of one page
    "theory/point.py": "theory/test_newton.py",  # a protocol
    "theory/status.py": "test_docs.py",
}


def test_tests_mirror_the_package():
    tests = Path(__file__).parent
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE)
        places = (own.as_posix(), own.parent.as_posix())
        elsewhere = next((ELSEWHERE[place] for place in places if place in ELSEWHERE), None)
        if own.name != "__init__.py":
            test = tests / (elsewhere or own.with_name(f"test_{own.name}"))
            assert test.exists(), f"write {test.relative_to(tests)}, or name its place in ELSEWHERE"
    assert all((PACKAGE / place).exists() for place in ELSEWHERE)
