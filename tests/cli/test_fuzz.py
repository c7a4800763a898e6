"""No input breaks a command: it works, or it says why in one line and leaves everything alone."""

import hashlib
import json
import os
import shutil
from typing import get_args, get_type_hints

import bad_files
import pytest
import typer
from bad_files import filled, outputs, refused

import perturb_nc as pnc
from perturb_nc.cli import main as cli

LAMBDAS = ("--lambda-w", "0.1", "--lambda-h", "0.05")
MODEL = (*LAMBDAS, "--beta", "1")
AXES = ("--lambda-w", "0.1,0.2", "--lambda-h", "0.05,0.1", "--beta", "1")
SHAPE = ("--num-classes", "4", "--dim", "10", "--samples-per-class", "10")

# Command → what is read at BAD and arguments that would work if it were good. OUT does not exist.
CASES = {
    "demo": [("checkpoint", ("-o", "BAD"))],
    "measure": [("nothing", ("math:pi", "math:e", "-o", "OUT.safetensors"))],
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
    "bench": [
        ("statistics", ("BAD", "--time-limit", "1e-9", "-o", "OUT")),
        ("statistics", ("LAYERS", "--joint", "BAD", "--time-limit", "1e-9", "-o", "OUT")),
    ],
    "sweep": [
        ("statistics", ("BAD", *AXES, "-o", "OUT")),
        ("old store", ("LAYERS", "--reference", "a", *AXES, "-o", "BAD")),
    ],
    "plot": [("store", ("BAD", "-o", "OUT.png"))],
    "spectrum": [("nothing", (*SHAPE, *MODEL))],
    "deep-ufm": [("nothing", ("--num-layers", "3", "--num-classes", "6", "--decay", "0.01"))],
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
    good = bad_files.write_good(folder)
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
        "checkpoint": bad_files.checkpoints(folder / "checkpoints", marker),
    }
    bad["old store"] = [path for path in bad["store"] if path.name != "missing.zarr"]
    before = snapshot(folder)
    yield good, bad
    assert not marker.exists()
    assert snapshot(folder) == before


def snapshot(folder):
    """Path → digest of everything below a folder."""
    return {
        path: hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else path.is_dir()
        for path in folder.rglob("*")
    }


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
    wrong = []
    for path in bad[what]:
        words = {**good, **outputs(tmp_path), "BAD": path}
        try:
            found = refused(run(command, *filled(arguments, words)), tmp_path)
        except Exception as error:  # a traceback, had it been the console script
            found = repr(error)
        if found:
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
            wrong.append(f"{path.parent.name}/{path.name}: {found}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(files, run, tmp_path):
    secret = tmp_path / "secret.safetensors"
    shutil.copy(files[0]["LAYERS"], secret)
    secret.chmod(0)
    code, out, err = run("metrics", secret)
    assert (code, out) == (2, "")
    assert "Permission denied" in err


NUMBERS = {
    float: ["nan", "inf", "-inf", "-1", "1e400", "", "x", "0x1", "1:2"],
    int: ["-1", "1.5", "nan", "", "x", str(10**12), str(10**30), "9" * 5000],
}
AXIS = ["nan", "inf", "-1", "1e400", "", ":", "1:2:3:4", "1,,2", "0:1:3", "1:inf:3", "1:2:1",
        "1e-4:1e-1:1000000000", "1:2:x", "1,nan", "x"]  # fmt: skip
# Large, and meant: a class may have so many samples, a space so many dimensions.
LARGE = {("spectrum", "dim"), ("spectrum", "samples_per_class"), ("sweep", "chunk")}
LARGE |= {("deep-ufm", "samples_per_class")}


def numeric_options():
    """(command, arguments of a good call, option, bad value) for all that are registered."""
    for command, cases in CASES.items():
        # `explore` would serve for ever if it took one of these.
        if command not in REGISTERED or command == "explore":
            continue
        hints = get_type_hints(REGISTERED[command].callback)
        for option in REGISTERED[command].params:
            name, hint = option.name, hints[option.name]
            values = [
                v for kind in NUMBERS if kind in (hint, *get_args(hint)) for v in NUMBERS[kind]
            ]
            if command == "sweep" and name in ("lambda_w", "lambda_h", "beta", "flow_times"):
                values = AXIS
            elif command == "plot" and name == "beta":
                values = [v for v in AXIS if v not in ("1:2:x",)]
            for value in values:
                if (command, name) not in LARGE or value != str(10**12):
                    yield command, cases[0][1], option.opts[-1], value


def test_numbers_out_of_range_are_refused(files, run, tmp_path, unchecked):
    good, _ = files
    words = {**good, **outputs(tmp_path), "BAD": good["LAYERS"]}
    right = {"stats": good["X"].with_suffix(".npz"), "plot": good["STORE"], "demo": tmp_path / "d"}
    wrong, tried = [], set()
    for command, arguments, option, value in numeric_options():
        words["BAD"] = right.get(command, good["LAYERS"])
        given_twice = [*filled(arguments, words), option, value]  # the last one counts
        try:
            found = refused(run(command, *given_twice), tmp_path)
        except Exception as error:
            found = repr(error)
        if found:
            wrong.append(f"{command} {option} {value[:40]!r}: {found}")
        tried.add(command)
    assert not wrong, "\n".join(wrong)
    assert tried >= {
        "demo",
        "stats",
        "predict",
        "flow",
        "depth",
        "sweep",
        "plot",
        "spectrum",
        "deep-ufm",
    }


FLAT = ("deep-ufm", "--num-layers", 1, "--num-classes", 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("deep-ufm", "--num-layers", 10**6, "--num-classes", 2, "--decay", "0.01"),
        ("deep-ufm", "--num-layers", 3, "--num-classes", 10**9, "--decay", "0.01"),
        (*FLAT, "--decay", "1e308", "--samples-per-class", 2**50),
        ("spectrum", *SHAPE, *MODEL, "--dim", 10**18),
        ("sweep", "LAYERS", "-o", "OUT", "--reference", "a", *(["1:2:10000"] * 3)),
        ("sweep", "LAYERS", "-o", "OUT", "--reference", "a", *AXES, "--workers", 10**4),
        ("flow", "LAYERS", *LAMBDAS, "-o", "OUT", "--points", 10**9),
        ("flow", "LAYERS", *LAMBDAS, "-o", "OUT", "--until-time", "1e-320"),
        ("stats", "X", "-o", "OUT", "--labels", "X"),
        ("predict", "LAYERS", *MODEL, "-o", "STORE"),
        ("predict", "LAYERS", *MODEL, "-o", "LAYERS/out"),
        ("plot", "STORE", "-o", "STORE"),
        ("stats",), ("explore", "--no-such-option"), ("",), ("--depth",),
    ],
)  # fmt: skip
def test_absurd_calls_are_refused(arguments, files, run, tmp_path, unchecked):
    words = {**files[0], **outputs(tmp_path), "LAYERS/out": files[0]["LAYERS"] / "out"}
    call = filled(arguments, words)
    if "1:2:10000" in call:
        at = call.index("1:2:10000")
        call[at:] = [p for o in ("--lambda-w", "--lambda-h", "--beta") for p in (o, "1:2:10000")]
    assert refused(run(*call), tmp_path) is None


NAMES = ["[/b] :boom: [red]x[/red]", "a $^{ b", "特徴 ümlaut", "line\nbreak", "_", " ", "%s {0} \\"]


def test_names_are_text_and_nothing_else(run, tmp_path, unchecked):
    """Of layers, files and folders: no markup, no mathematics, no format strings."""
    folder = tmp_path / "[red] $^{ 特徴\n%s"
    start, times = bad_files.valid_statistics(), [0.1 * i for i in range(len(NAMES))]
    path = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.01, times=times)
    layers = {name: path.statistics(i) for i, name in enumerate(NAMES)}
    file = folder / ":boom: $^{ [red] %d 特徴\nb.safetensors"
    pnc.save_layers(layers, file)
    code, out, err = run("metrics", file)
    assert (code, err) == (0, "")
    assert "[/b]" in out
    assert "[red]" in out
    results = [
        run("predict", file, *MODEL, "-o", folder / "$^{.p"),
        run("flow", file, *LAMBDAS, "--points", 5, "-o", folder),
        run("depth", file, *LAMBDAS, "-o", folder),
        run("sweep", file, "--reference", NAMES[1], *AXES, "-o", folder / "$^{ [b].zarr"),
        run("plot", folder / "$^{ [b].zarr", "-o", folder / "$^{ [x].png"),
    ]
    assert [result[0] for result in results] == [0] * len(results), results
    assert all(result[2] == "" for result in (*results[:3], results[4]))
    assert json.loads((folder / "path.json").read_text("utf8"))["layer"] == NAMES[0]
