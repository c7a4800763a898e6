"""What the wheel holds, and what an installed one gives. Run by check.sh outside the repository."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import perturb_nc

TYPED = """\
import perturb_nc as pnc
from perturb_nc import networks

def f(s: pnc.ClassStatistics) -> None:
    problem = pnc.NearCollapseProblem(s, lambda_w=0.1, lambda_h=0.1, beta=1.0)
    reveal_type(pnc.minimize(problem).certificate.gap)
    reveal_type(networks.load_dataset("digits"))
    pnc.minimize(s)
"""
SEEN = (
    'float"',  # after "builtins." or not
    'Revealed type is "perturb_nc.measure.dataset.Dataset"',
    'Argument 1 to "minimize" has incompatible type "ClassStatistics"',
)


def main(wheel: str, repository: str) -> None:
    names = ZipFile(wheel).namelist()
    held = {name for name in names if not name.startswith("perturb_nc-")}
    source = Path(repository) / "perturb_nc"
    files = [p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    wanted = {p.relative_to(repository).as_posix() for p in files}
    assert held == wanted, held ^ wanted
    assert "perturb_nc/py.typed" in held

    package = Path(perturb_nc.__file__).parent
    assert Path(sys.prefix) in package.parents, package

    Path("typed.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "typed.py"]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert all(line in said for line in SEEN), said
    assert said.count("error:") == 1, said

    command = [str(Path(sys.executable).parent / "perturb-nc"), "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(
        name in said for name in ("demo", "stats", "predict", "sweep", "report", "explore")
    ), said


if __name__ == "__main__":
    main(*sys.argv[1:])
