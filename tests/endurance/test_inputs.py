"""2,000 mutations of every input that is read, and 300 flipped bits in every format of ours."""

import contextlib
import csv
import gc
import io
import json
import os
import shutil
import time

import bad_files
import numpy as np
import pytest
import torch
from bad_files import refused
from comparisons import comparison
from damage import flipped, generator, mutated
from safetensors import safe_open
from safetensors.torch import save

import perturb_nc as pnc
from perturb_nc.layer_files import load_joint, load_layers, save_joint
from perturb_nc.measure.dataset import Dataset
from perturb_nc.measure.epoch_file import EpochFile, read_epochs
from perturb_nc.networks.architectures import MLP
from perturb_nc.networks.data import load_dataset
from perturb_nc.networks.training import TrainingConfig, train
from perturb_nc.study.comparison import load_comparison, save_comparison
from perturb_nc.study.sweep_store import open_sweep
from perturb_nc.theory.flow.path import FlowPath

MUTATIONS, FLIPS = int(os.environ.get("ENDURANCE_MUTATIONS", "2000")), 300
LAMBDAS = ("--lambda-w", "0.1", "--lambda-h", "0.05")
MODEL = (*LAMBDAS, "--beta", "1")
AXES = ("--lambda-w", "0.1", "--lambda-h", "0.05", "--beta", "1")

COMPARISON = "comparison.json"
# Input → the commands that read it, in turn.
COMMANDS = {
    "features.npz": [("stats", "BAD", "-o", "OUT")],
    "features.pt": [("stats", "BAD", "-o", "OUT")],
    "features.safetensors": [("stats", "BAD", "-o", "OUT")],
    "features.npy": [("stats", "BAD", "--labels", "LABELS", "-o", "OUT")],
    "labels.npy": [("stats", "X", "--labels", "BAD", "-o", "OUT")],
    "weight.npy": [("metrics", "LAYERS", "--weight", "BAD")],
    "samples.npz": [("predict", "BAD", *MODEL, "--loss", "cross-entropy")],
    "layers.safetensors": [
        ("metrics", "BAD"),
        ("predict", "BAD", *MODEL),
        ("flow", "BAD", *LAMBDAS, "-o", "OUT"),
        ("depth", "BAD", *LAMBDAS, "-o", "OUT"),
        ("sweep", "BAD", "--reference", "a", *AXES, "-o", "OUT"),
        ("report", "BAD", "--no-pairs", "-o", "OUT.html"),
        ("explore", "BAD", "--no-open", "--host", "no address"),
    ],
    "layers of before checksums.safetensors": [("metrics", "BAD")],
    COMPARISON: [("report", "BAD", "-o", "OUT.html")],
}


def written(path, content):
    """A new file: to empty an old one makes some file systems wait for the disk."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def without_checksum(path):
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = {k: v for k, v in file.metadata().items() if k != "perturb_nc_sha256"}
    return save(tensors, notes)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """What the words in capitals stand for, and a good file of every kind."""
    folder = tmp_path_factory.mktemp("good")
    features, labels = bad_files.valid_arrays().values()
    good = {"X": bad_files.write_features(folder / "x.npy")}
    good["LAYERS"] = bad_files.write_layers(folder / "layers.safetensors")
    good["LABELS"] = folder / "y.npy"
    np.save(good["LABELS"], labels)
    for suffix in (".npz", ".pt", ".safetensors", ".npy"):
        bad_files.write_features(folder / f"features{suffix}")
    np.save(folder / "labels.npy", labels)
    np.save(folder / "weight.npy", np.eye(3, 4))
    np.savez(folder / "samples.npz", a=features, labels=labels)
    old = folder / "layers of before checksums.safetensors"
    old.write_bytes(without_checksum(good["LAYERS"]))
    save_comparison(comparison(), folder / "comparison.json")
    return {**good, "FOLDER": folder}


@pytest.mark.parametrize("kind", COMMANDS)
def test_mutations_of(kind, words, run, tmp_path, unchecked, ledger):
    """Every command works, or refuses in one line and writes nothing."""
    good = (words["FOLDER"] / kind).read_bytes()
    bad, out = tmp_path / kind, tmp_path / "out"
    commands = COMMANDS[kind]
    original, compared = load_layers(words["LAYERS"]), load_comparison(words["FOLDER"] / COMPARISON)
    silent = {
        "layers.safetensors": lambda path: same_layers(load_layers(path), original),
        COMPARISON: lambda path: load_comparison(path).identical(compared),
    }
    out.mkdir()
    for i in range(MUTATIONS):
        content = mutated(good, generator(ledger.seed, kind, i))
        written(bad, content)
        places = {"OUT": out / "out", "OUT.html": out / "out.html", "BAD": bad, **words}
        call = [str(places.get(word, word)) for word in commands[i % len(commands)]]
        attempt = f"{kind}, attempt {i}, {call[0]}"
        try:
            code, _, err = result = run(*call)
        except Exception as error:
            ledger.falls_by("tracebacks", f"{attempt}: {error!r}")
            continue
        noted = [line for line in err.splitlines() if "perturb-nc: note: " not in line]
        if code:
            found = refused(result, out)
            if found:
                ledger.falls_by("tracebacks", f"{attempt}: {found}")
            ledger.ends("refused")
        elif kind in silent and not silent[kind](bad):
            ledger.falls_by("silent changes", attempt)
        elif noted and call[0] not in ("sweep", "report"):  # these show a bar
            ledger.falls_by("tracebacks", f"{attempt}: stderr {err[-300:]}")
        else:
            ledger.ends("worked")
        if any(out.iterdir()):
            shutil.rmtree(out)
            out.mkdir()


def same_layers(found, wanted):
    return list(found) == list(wanted) and all(
        torch.equal(getattr(found[n], f), getattr(wanted[n], f))
        for n in wanted
        for f in ("counts", "means", "within", "class_variance")
    )


# Formats of ours: how a good file is written, how it is read, and whether two readings agree.


def network():
    torch.manual_seed(0)
    return MLP(4, (5,), 3)


CONFIG = TrainingConfig(epochs=1, batch_size=8, learning_rate=0.01)


def trained(path):
    x, y = bad_files.valid_arrays().values()
    model = network()
    data = Dataset("noise", torch.from_numpy(x).float(), torch.from_numpy(y), 3)
    history = train(model, data, CONFIG, checkpoint=path)
    return [history, *(t.tolist() for t in model.state_dict().values())]


def flow():
    return pnc.central_path_flow(
        bad_files.valid_statistics(), lambda_w=0.1, lambda_h=0.01, times=[0.5, 1.0]
    )


def numbers_of(path):
    found = FlowPath.load(path)
    arrays = ("times", "means", "basis", "inner", "outer")
    plain = (found.lambda_w, found.lambda_h, found.beta, found.status, repr(found.cost))
    plain += (found.rtol, found.atol, repr(found.method))
    return [*plain, *(getattr(found, name).tolist() for name in arrays)]


def pair():
    from perturb_nc.joint_statistics import JointStatistics

    s = bad_files.valid_statistics()
    return {("a", "b"): JointStatistics(s, s, s.within)}


def joint_numbers(path):
    found = load_joint(path)
    return [(key, p.cross.tolist(), p.first.means.tolist()) for key, p in found.items()]


def layer_numbers(path):
    return [
        (n, *(getattr(s, f).tolist() for f in ("counts", "means", "within", "class_variance")))
        for n, s in load_layers(path).items()
    ]


FORMATS = {
    "checkpoint.pt": (trained, trained),
    "layers.safetensors": (bad_files.write_layers, layer_numbers),
    "pairs of layers.safetensors": (lambda path: save_joint(pair(), path), joint_numbers),
    "path.safetensors": (lambda path: flow().save(path), numbers_of),
    "comparison.json": (
        lambda path: save_comparison(comparison(), path),
        lambda path: json.dumps(load_comparison(path).to_dict(), default=str),
    ),
}


def verdict(ledger, attempt, read, path, wanted):
    """One reading of damage: refused by ValueError, or what was written."""
    try:
        found = read(path)
    except (ValueError, MemoryError) as error:
        ledger.ends("refused" if str(error) else "refused without a word")
    except Exception as error:
        ledger.falls_by("tracebacks", f"{attempt}: {error!r}")
    else:
        if found == wanted:
            ledger.ends("unharmed")
        else:
            ledger.falls_by("silent changes", attempt)


@pytest.mark.parametrize("kind", FORMATS)
def test_flipped_bits_in(kind, tmp_path, unchecked, ledger):
    write, read = FORMATS[kind]
    path = tmp_path / kind
    write(path)
    wanted, good = read(path), path.read_bytes()
    for i in range(FLIPS):
        written(path, flipped(good, generator(ledger.seed, "flip", kind, i)))
        verdict(ledger, f"flip {i}", read, path, wanted)


@pytest.mark.parametrize(
    "kind", ["checkpoint.pt", "path.safetensors", "pairs of layers.safetensors"]
)
def test_mutations_read_by_the_library_of(kind, tmp_path, unchecked, ledger):
    write, read = FORMATS[kind]
    path = tmp_path / kind
    write(path)
    wanted, good = read(path), path.read_bytes()
    for i in range(MUTATIONS):
        written(path, mutated(good, generator(ledger.seed, kind, i)))
        verdict(ledger, f"mutation {i}", read, path, wanted)


STORE = {"lambda_w": [0.05, 0.1], "lambda_h": [0.01], "beta": 1.0, "chunk": 1, "flow_times": [0.5]}


def settled_cells_are_the_same(found, whole):
    """Damage may make settings pending again, and may not change a number of the others."""
    left = found["status"] != 0
    if found.attrs != whole.attrs or set(found) != set(whole):
        return False
    for name in whole:
        kept = left.any("beta") if "beta" not in whole[name].dims else left
        a, b = (d[name].where(kept) for d in (found, whole))
        if not a.drop_attrs().equals(b.drop_attrs()):
            return False
    return True


@pytest.mark.parametrize(
    ("how", "count"),
    [("flipped bits", FLIPS), ("mutations", MUTATIONS)],
    ids=["flips", "mutations"],
)
def test_stores_of_sweeps_with(how, count, run, tmp_path, unchecked, ledger):
    store = tmp_path / "sweep.zarr"
    statistics = bad_files.valid_statistics()
    whole = pnc.sweep(statistics, **STORE, store=store)
    files = [path for path in sorted(store.rglob("*")) if path.is_file()]
    chunks = [path for path in files if not path.name.startswith(".")]
    change = flipped if how == "flipped bits" else mutated
    out = tmp_path / "x.png"
    for i in range(count):
        rng = generator(ledger.seed, "store", how, i)
        # Bits in chunks, which have the checksums; of what says how to read them there are two.
        path = rng.choice(chunks if how == "flipped bits" else files)
        good = path.read_bytes()
        written(path, change(good, rng))
        attempt = f"{how} {i}, {path.relative_to(store)}"
        try:
            found = open_sweep(store)
        except (ValueError, MemoryError):
            ledger.ends("refused")
            if i % 20 == 0:
                result = run("plot", store, "-o", out)
                if result[0] != 2 or len(result[2].splitlines()) != 1:
                    ledger.falls_by("tracebacks", f"{attempt}: plot {result}")
        except Exception as error:
            ledger.falls_by("tracebacks", f"{attempt}: {error!r}")
        else:
            if not settled_cells_are_the_same(found, whole):
                ledger.falls_by("silent changes", attempt)
            elif int((found["status"] == 0).sum()):
                if i % 40 == 0:  # and it is computed again, to the same bits
                    again = pnc.sweep(statistics, **STORE, store=store)
                    if not again.identical(whole) or not open_sweep(store).identical(whole):
                        ledger.falls_by("silent changes", f"{attempt}, gone on with")
                ledger.ends("pending again")
            else:
                ledger.ends("unharmed")
        path.write_bytes(good)


def record(epoch):
    return {"epoch": epoch, "loss": 1 / epoch, "layers": {"a\u2028\u0085,": {"nc1": 0.5 / epoch}}}


def lost(before, after):
    return any(line not in after for line in before.split(b"\n"))


def lost_rows(before, after):
    """Of whole lines, by what they say: a new column writes the table anew."""
    rows, kept = (
        list(csv.reader(io.StringIO(text.decode("utf8", "replace"), newline="")))
        for text in (before[: before.rfind(b"\n") + 1], after)
    )
    return any(not any(k[: len(row)] == row for k in kept) for row in rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_mutations_of_the_epochs_of_a_monitor_in(suffix, tmp_path, unchecked, ledger):
    """Refused as it is, or added to without a whole line being lost."""
    path = tmp_path / f"run{suffix}"
    file = EpochFile(path)
    for epoch in range(1, 6):
        file.append(record(epoch))
    good = path.read_bytes()
    for i in range(MUTATIONS):
        content = mutated(good, generator(ledger.seed, "epochs", suffix, i))
        written(path, content)
        attempt = f"{suffix}, mutation {i}"
        try:
            file = EpochFile(path)
        except ValueError:
            ledger.ends("refused")
            if path.read_bytes() != content:
                ledger.falls_by("lost rows", f"{attempt}: a refused file was changed")
            continue
        except Exception as error:
            ledger.falls_by("tracebacks", f"{attempt}: {error!r}")
            continue
        try:
            file.append(record(9))
            if suffix == ".jsonl":
                assert read_epochs(path)[-1]["epoch"] >= 9 or b"9" in content
        except Exception as error:
            ledger.falls_by("tracebacks", f"{attempt}, appending: {error!r}")
            continue
        torn = path.with_name(f"{path.name}.torn")
        kept = path.read_bytes() + (torn.read_bytes() if torn.exists() else b"")
        if lost(content, kept) if suffix == ".jsonl" else lost_rows(content, kept):
            ledger.falls_by("lost rows", attempt)
        else:
            ledger.ends("added to")
        torn.unlink(missing_ok=True)


def test_mutations_of_a_fetched_data_set(tmp_path, unchecked, ledger):
    rng = np.random.default_rng(0)
    stored = io.BytesIO()
    labels = np.arange(20, dtype=np.uint8) % 10
    images = rng.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    both = {f"{s}_images": images for s in ("train", "test")}
    np.savez(stored, **both, **{f"{s}_labels": labels for s in ("train", "test")})
    path, good = tmp_path / "cifar10.npz", stored.getvalue()
    for i in range(MUTATIONS):
        written(path, mutated(good, generator(ledger.seed, "data", i)))
        try:
            data = load_dataset("cifar10", data_dir=tmp_path)
        except (ValueError, MemoryError):
            ledger.ends("refused")
        except Exception as error:
            ledger.falls_by("tracebacks", f"mutation {i}: {error!r}")
        else:
            ledger.ends("unharmed" if len(data) == 20 else "worked")


def test_nothing_stays_open(tmp_path, unchecked, ledger):
    """Refusals close what they opened: a long-running process does not run out of files."""
    import psutil

    before = psutil.Process().num_fds()
    path = tmp_path / "x.npz"
    good = bad_files.write_features(path).read_bytes()
    for i in range(500):
        written(path, mutated(good, generator(ledger.seed, "open", i)))
        with contextlib.suppress(ValueError, MemoryError):
            pnc.load_layers(path)
        ledger.ends("read")
    gc.collect()
    time.sleep(0.1)
    assert psutil.Process().num_fds() <= before + 2
