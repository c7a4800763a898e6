"""No input breaks a command: it works, or it says why in one line and leaves everything alone."""

import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import bad_files
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perturb_nc import cli

LAMBDAS = ("--lambda-w", "0.1", "--lambda-h", "0.05")
MODEL = (*LAMBDAS, "--beta", "1")
AXES = ("--lambda-w", "0.1,0.2", "--lambda-h", "0.05,0.1", "--beta", "1")
SHAPE = ("--num-classes", "4", "--dim", "10", "--samples-per-class", "10")

# Command → what is read at BAD and arguments that would work if it were good. OUT does not exist.
CASES = {
    "demo": [("checkpoint", ("-o", "BAD"))],
    "stats": [
        ("features", ("BAD", "-o", "OUT")),
        ("features", ("X", "--labels", "BAD", "--labels-key", "targets", "-o", "OUT")),
    ],
    "metrics": [
        ("statistics", ("BAD",)),
        ("features", ("LAYERS", "--weight", "BAD")),
    ],
    "predict": [("statistics", ("BAD", *MODEL, "-o", "OUT"))],
    "flow": [("statistics", ("BAD", *LAMBDAS, "-o", "OUT"))],
    "depth": [
        ("statistics", ("BAD", *LAMBDAS, "-o", "OUT")),
        ("statistics", ("LAYERS", "BAD", *LAMBDAS, "-o", "OUT")),
    ],
    "sweep": [
        ("statistics", ("BAD", *AXES, "-o", "OUT")),
        ("store", ("LAYERS", "--layer", "a", *AXES, "-o", "BAD")),
    ],
    "plot": [("store", ("BAD", "-o", "OUT.png"))],
    "spectrum": [("nothing", (*SHAPE, *MODEL))],
    "deep-ufm": [("nothing", ("--depth", "3", "--classes", "6", "--decay", "0.01"))],
    "report": [("statistics", ("BAD", "-o", "OUT.html"))],
    "explore": [("statistics", ("BAD", "--no-open"))],
}
COMING = {"report", "explore"}
FILE_CASES = [(c, what, a) for c, cases in CASES.items() for what, a in cases if what != "nothing"]
REGISTERED = typer.main.get_command(cli.app).commands


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What every word in capitals stands for, and the bad files by what they claim to be."""
    folder = tmp_path_factory.mktemp("files")
    marker = folder / "code ran"
    good = {
        "X": bad_files.write_features(folder / "x.npy"),
        "LAYERS": bad_files.write_layers(folder / "layers.safetensors"),
        "STORE": bad_files.write_store(folder / "store.zarr"),
    }
    features, layers = bad_files.write_features(folder / "x.npz"), good["LAYERS"]
    broken = [
        bad_files.anything(folder / "npz", ".npz", features.read_bytes()),
        bad_files.anything(folder / "npy", ".npy", good["X"].read_bytes()),
        bad_files.anything(
            folder / "pt", ".pt", bad_files.write_features(folder / "x.pt").read_bytes()
        ),
    ]
    tensors = bad_files.anything(folder / "st", ".safetensors", layers.read_bytes())
    stores = bad_files.anything(folder / "stores", ".zarr", layers.read_bytes())
    bad = {
        "features": [p for paths in broken for p in paths]
        + bad_files.bad_features(folder / "features", marker),
        "statistics": [*tensors, *bad_files.bad_statistics(folder / "statistics"), features],
        "store": [*stores, *bad_files.bad_stores(folder / "broken stores", good["STORE"])],
        "checkpoint": checkpoints(folder / "checkpoints", marker),
    }
    before = snapshot(folder)
    yield good, bad
    assert not marker.exists()
    assert snapshot(folder) == before


def checkpoints(folder, marker):
    """Folders for the demo with something else where its checkpoint should be."""
    folder.mkdir()
    (folder / "a file").write_text("here")
    for name in ("random", "code", "old", "list"):
        (folder / name).mkdir()
    (folder / "random" / "checkpoint.pt").write_bytes(b"\x80\x02 random")
    paths = {p.stem: p for p in bad_files.bad_features(folder / "other", marker)}
    for name in ("code", "old", "list"):
        (folder / name / "checkpoint.pt").write_bytes(paths[name].read_bytes())
    return [folder / name for name in ("a file", "random", "code", "old", "list")]


def snapshot(folder):
    """Path → digest of everything below a folder."""
    return {
        path: hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else path.is_dir()
        for path in folder.rglob("*")
    }


def filled(arguments, words):
    return [str(words.get(argument, argument)) for argument in arguments]


def outputs(folder):
    return {"OUT": folder / "out", "OUT.png": folder / "out.png", "OUT.html": folder / "out.html"}


def refused(result, folder):
    """What is wrong with the refusal of a command, None if nothing."""
    code, out, err = result
    lines = err.splitlines()
    if code != 2 or out or len(lines) != 1 or not err.startswith("perturb-nc: "):
        return f"exit code {code}, stdout {out[:200]!r}, stderr {err[-2000:]}"
    if written := list(folder.iterdir()):
        return f"wrote {written}"
    return None


def available(command):
    if command not in REGISTERED and command in COMING:
        pytest.skip(f"there is no command {command}")


def test_every_command_has_a_case():
    assert set(REGISTERED) - set(CASES) == set()
    assert set(CASES) - set(REGISTERED) <= COMING


@pytest.mark.parametrize(("command", "what", "arguments"), FILE_CASES)
def test_bad_files_are_refused(command, what, arguments, files, run, tmp_path, unchecked):
    available(command)
    good, bad = files
    wrong = {}
    for path in bad[what]:
        words = {**good, **outputs(tmp_path), "BAD": path}
        try:
            found = refused(run(command, *filled(arguments, words)), tmp_path)
        except Exception as error:  # a traceback, had it been the console script
            found = repr(error)
        if found:
            wrong[f"{path.parent.name}/{path.name}"] = found
    assert wrong == {}
