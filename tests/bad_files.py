"""Files that no command may take: broken, lying about their size, or meant to run code."""

import io
import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

import perturb_nc as pnc

HUGE = 10**12
FORMAT = {"format": "perturb_nc.ClassStatistics/1"}


def make_code(marker):
    """An object whose unpickling makes the folder `marker`."""

    class Code:
        def __reduce__(self):
            return Path.mkdir, (marker,)

    return Code()


def valid_arrays():
    labels = np.arange(24) % 3
    x = np.random.default_rng(0).normal(size=(24, 4)) + 2 * np.eye(3, 4)[labels]
    return {"features": x, "labels": labels}


def valid_statistics():
    return pnc.ClassStatistics.from_features(*valid_arrays().values())


def write_features(path):
    """Features and labels in the format that the suffix says."""
    arrays = valid_arrays()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".npy":
        np.save(path, arrays["features"])
    elif path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        path.write_bytes(save(tensors))
    return path


def write_layers(path):
    """Two layers of three classes."""
    first = valid_statistics()
    later = pnc.central_path_flow(first, lambda_w=0.1, lambda_h=0.01, times=[0.5]).statistics(0)
    pnc.save_layers({"a": first, "b": later}, path)
    return path


def write_store(path):
    """A sweep of 2 × 2 settings with a flow."""
    axes = {"lambda_w": [0.05, 0.1], "lambda_h": [0.01, 0.02], "beta": 1.0}
    pnc.sweep(valid_statistics(), **axes, flow_times=[0.5], store=path)
    return path


def write_good(folder):
    """What the words in capitals of a command stand for."""
    return {
        "X": write_features(folder / "x.npy"),
        "LAYERS": write_layers(folder / "layers.safetensors"),
        "STORE": write_store(folder / "store.zarr"),
    }


def anything(folder, suffix, valid):
    """What is wrong whatever the format: `valid` are the bytes of a good file."""
    folder.mkdir()
    contents = {
        "empty": b"",
        "random": np.random.default_rng(1).bytes(500),
        "text": b"not what you think\n" * 9,
        "cut in its header": valid[:5],
        "cut in the middle": valid[: len(valid) // 2],
        "cut at the last byte": valid[:-1],
        "line\nbreak": b"\x00",
        "ümlaut $^{ [red] 特徴": b"\xff",
    }
    for name, content in contents.items():
        (folder / f"{name}{suffix}").write_bytes(content)
    (folder / f"folder{suffix}").mkdir()
    (folder / f"loop{suffix}").symlink_to(folder / f"loop{suffix}")
    (folder / f"dangling{suffix}").symlink_to(folder / "nowhere")
    return [*sorted(folder.iterdir()), folder / f"missing{suffix}", folder / ("n" * 300 + suffix)]


def bad_features(folder, marker):
    """Files that hold no features with their labels."""
    folder.mkdir()
    x, y = valid_arrays().values()
    nan, inf = x.copy(), x.copy()
    nan[3, 1], inf[5, 2] = np.nan, -np.inf
    pairs = {
        "nan": (nan, y), "inf": (inf, y), "complex": (x + 1j, y), "vector": (x[0], y),
        "empty": (x[:0], y[:0]), "flat": (x[:, :0], y), "shorter": (x, y[:-1]),
        "cube": (x[None], y), "scalar": (np.float64(1), np.int64(1)),
        "empty class": (x, np.where(y == 1, 2, y)), "huge label": (x, y * HUGE),
        "one class": (x, 0 * y), "negative": (x, y - 1), "float labels": (x, y + 0.5),
        "bool labels": (x, y > 0), "complex labels": (x, y + 1j), "multi-hot": (x, 0 * x + 1),
        "unsigned": (x, (y.astype("u8") << 62)), "text": (x.astype("U5"), y),
        "dates": (x.astype("i8").astype("M8[s]"), y), "records": (np.zeros(24, "f8,i4"), y),
    }  # fmt: skip
    for name, (features, labels) in pairs.items():
        np.savez(folder / f"{name}.npz", features=features, labels=labels)
    np.savez(folder / "no arrays.npz")
    objects = np.array([make_code(marker)] * 24)
    np.savez(folder / "objects.npz", features=objects, labels=y)
    np.save(folder / "objects.npy", objects)
    (folder / "pickle.npy").write_bytes(pickle.dumps(make_code(marker)))
    (folder / "pickle.npz").write_bytes(pickle.dumps(make_code(marker)))
    (folder / "pickle.pt").write_bytes(pickle.dumps(make_code(marker)))
    torch.save({"features": make_code(marker)}, folder / "code.pt")
    torch.save({"features": make_code(marker)}, folder / "old.pth",
               _use_new_zipfile_serialization=False)  # fmt: skip
    torch.save([1, "a", None], folder / "list.pt")
    dense, labels = torch.from_numpy(x), torch.from_numpy(y)
    tensors = {
        "sparse": torch.sparse_coo_tensor([[0], [0]], [1.0], (HUGE, 4), check_invariants=True),
        "meta": torch.empty(24, 4, device="meta"),
        "expanded": torch.zeros(1).expand(HUGE, 4),
        "packed": torch.zeros(24, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    }  # fmt: skip
    for name, tensor in tensors.items():
        torch.save({"features": tensor, "labels": labels}, folder / f"{name}.pt")
    (folder / "other.safetensors").write_bytes(save({"other": dense}))
    (folder / "huge.safetensors").write_bytes(lying_safetensors())
    (folder / "rows.npy").write_bytes(lying_npy())
    with zipfile.ZipFile(folder / "rows.npz", "w") as archive:
        archive.writestr("features.npy", lying_npy())
    bomb(folder / "bomb.npz")
    bomb(folder / "bomb.pt")
    (folder / "wrong.csv").write_text("1,2,3")
    return sorted(folder.iterdir())


def lying_npy():
    """A header that claims 10^12 rows of a file of a few bytes."""
    content = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (HUGE, 4)}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue() + bytes(800)


def lying_safetensors():
    entry = {"dtype": "F64", "shape": [HUGE, 4], "data_offsets": [0, 32 * HUGE]}
    header = json.dumps({"__metadata__": FORMAT, "0/a/means": entry, "features": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(800)


def bomb(path):
    """A small archive that unpacks to 10^12 zeros, or says so."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", lying_npy() + bytes(10**6))
        archive.infolist()[0].file_size = 32 * HUGE + 128  # what the directory will hold


def bad_statistics(folder):
    """Files in the format of class statistics that hold none."""
    folder.mkdir()
    s = valid_statistics()
    good = {"counts": s.counts, "means": s.means, "within": s.within}
    good["class_variance"] = s.class_variance
    nan = s.means.clone()
    nan[1, 1] = torch.nan
    changes = {
        "int means": {"means": s.means.long()},
        "bool counts": {"counts": s.counts > 0},
        "complex counts": {"counts": s.counts.to(torch.complex64)},
        "complex means": {"means": s.means.to(torch.complex64)},
        "float counts": {"counts": s.counts.double()},
        "nan": {"means": nan},
        "inf": {"within": s.within / 0.0},
        "empty class": {"counts": s.counts * torch.tensor([1, 0, 1])},
        "countless": {"counts": s.counts + 2**62},
        "negative": {"within": -s.within},
        "column": {"counts": s.counts[:, None]},
        "scalars": {name: tensor.flatten()[0] for name, tensor in good.items()},
        "narrow": {"within": s.within[:2, :2]},
        "flat": {"means": s.means[:, :0], "within": s.within[:0, :0]},
        "more classes": {"class_variance": torch.ones(4).double()},
        "one class": {"counts": s.counts[:1], "means": s.means[:1]},
        "none": {name: tensor[:0] for name, tensor in good.items()},
    }
    for name, change in changes.items():
        tensors = {
            f"0/a/{field}": value.clone().contiguous()
            for field, value in {**good, **change}.items()
        }
        (folder / f"{name}.safetensors").write_bytes(save(tensors, FORMAT))
    named = {f"0/a/{field}": value for field, value in good.items()}
    others = {
        "no layer": ({}, FORMAT),
        "no metadata": (named, None),
        "other format": (named, {"format": "perturb_nc.ClassStatistics/9"}),
        "no means": ({k: v for k, v in named.items() if "means" not in k}, FORMAT),
        "no number": ({k[1:]: v for k, v in named.items()}, FORMAT),
        "no slash": ({"a": s.means}, FORMAT),
        "two names": ({k.replace("a/m", "b/m"): v for k, v in named.items()}, FORMAT),
    }
    for name, (tensors, metadata) in others.items():
        (folder / f"{name}.safetensors").write_bytes(save(tensors, metadata))
    (folder / "huge.safetensors").write_bytes(lying_safetensors())
    return sorted(folder.iterdir())


def bad_stores(folder, good):
    """Zarr stores that hold no sweep: `good`, each with one thing wrong."""
    folder.mkdir()

    def edited(name, change):
        store = Path(shutil.copytree(good, folder / f"{name}.zarr"))
        path = store / ".zmetadata"
        record = json.loads(path.read_text())
        change(record["metadata"])
        path.write_text(json.dumps(record))
        (store / ".zattrs").write_text(json.dumps(record["metadata"].get(".zattrs", {})))

    edited("no attributes", lambda m: m.update({".zattrs": {}}))
    edited("no size", lambda m: m[".zattrs"].pop("num_classes"))
    edited("odd arguments", lambda m: m[".zattrs"].update(arguments=[1]))
    edited("no metric", lambda m: [m.pop(k) for k in list(m) if k.startswith("nc1/")])
    edited("no axis", lambda m: [m.pop(k) for k in list(m) if k.startswith("lambda_h/")])
    edited("no status", lambda m: [m.pop(k) for k in list(m) if k.startswith("status/")])
    edited("huge", lambda m: m["nc1/.zarray"].update(shape=[HUGE, 2, 1]))
    edited("all huge", lambda m: [
        v.update(shape=[HUGE, *v["shape"][1:]]) for k, v in m.items() if k.endswith("/.zarray")
    ])  # fmt: skip
    edited("negative", lambda m: m["nc1/.zarray"].update(shape=[-2, 2, 1]))
    edited("flat", lambda m: m["nc1/.zarray"].update(shape=[4]))
    edited("dtype", lambda m: m["nc1/.zarray"].update(dtype="|O"))
    edited("text", lambda m: m["nc1/.zarray"].update(dtype="<U8"))
    edited("codec", lambda m: m["nc1/.zarray"].update(compressor={"id": "none such"}))
    edited("format", lambda m: m["nc1/.zarray"].update(zarr_format=9))
    edited("dims", lambda m: m["nc1/.zattrs"].update(_ARRAY_DIMENSIONS=["a", "b", "c"]))
    contents = {".zmetadata": b"", "nc1/0.0.0": b"\x07", "status/0.0.0": b"", "lambda_w/0": b"\xff"}
    for name, content in contents.items():
        store = Path(shutil.copytree(good, folder / f"damaged {name.replace('/', ' ')}.zarr"))
        (store / name).write_bytes(content)
    store = Path(shutil.copytree(good, folder / "list.zarr"))
    (store / ".zmetadata").write_text("[]")
    (folder / "empty.zarr").mkdir()
    return sorted(folder.iterdir())


def checkpoints(folder, marker):
    """Folders for the demo with something else where its checkpoint should be."""
    folder.mkdir()
    (folder / "a file").write_text("here")
    for name in ("random", "code", "old", "list"):
        (folder / name).mkdir()
    (folder / "random" / "checkpoint.pt").write_bytes(b"\x80\x02 random")
    paths = {p.stem: p for p in bad_features(folder / "other", marker)}
    for name in ("code", "old", "list"):
        (folder / name / "checkpoint.pt").write_bytes(paths[name].read_bytes())
    return [folder / name for name in ("a file", "random", "code", "old", "list")]


def filled(arguments, words):
    return [str(words.get(argument, argument)) for argument in arguments]


def outputs(folder):
    return {"OUT": folder / "out", "OUT.png": folder / "out.png", "OUT.html": folder / "out.html"}


def refused(result, folder):
    """What is wrong with the refusal of a command, None if nothing."""
    code, out, err = result
    # A file without a checksum is said to be read unchecked, whatever becomes of it.
    lines = [line for line in err.splitlines() if not line.startswith("perturb-nc: note: ")]
    if code != 2 or out or len(lines) != 1 or not err.startswith("perturb-nc: "):
        return f"exit code {code}, stdout {out[:200]!r}, stderr {err[-2000:]}"
    if written := list(folder.iterdir()):
        return f"wrote {written}"
    return None
