"""Objects in scripts of one's own: "train.py:model", "package.module:make_loader"."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def from_script(place: str, what: str) -> Any:
    """The object that "SCRIPT:NAME" names; a function is called without arguments.

    The script is run as if it were imported: what it guards by `__name__ == "__main__"` is not.

    Raises:
        ValueError: no such script, module or name.
    """
    script, colon, name = place.rpartition(":")
    if not colon or not script or not name.isidentifier():
        raise ValueError(f"{what} must be SCRIPT.py:NAME or MODULE:NAME, got {place!r}")
    module = _module(script)
    if not hasattr(module, name):
        own = [n for n in vars(module) if not n.startswith("_")]
        raise ValueError(f"{script} has no {name!r}; it has {', '.join(own) or 'nothing'}")
    found = getattr(module, name)
    is_object = isinstance(found, type) or not callable(found) or hasattr(found, "forward")
    return found if is_object else found()


def _module(script: str) -> Any:
    path = Path(script)
    if path.suffix == ".py":
        if not path.is_file():
            raise ValueError(f"no script at {script}; check the path")
        name = f"__script_{path.stem}__"
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
            return sys.modules[name]  # of the model: the loader is in the same
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ValueError(f"{script} cannot be run as a Python script")
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.resolve().parent))
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(script)
    except ModuleNotFoundError as error:
        if error.name != script.partition(".")[0] and error.name != script:
            raise
        raise ValueError(f"there is no module {script!r}; a script ends in .py") from error
