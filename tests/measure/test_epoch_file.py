import csv
import json
import os
import resource

import pytest

from perturb_nc.measure.epoch_file import EpochFile, read_epochs

NAME = 'a\u2028b\u0085c, "d"\x0b'  # str.splitlines() would cut it


def record(epoch, **scalars):
    layers = {NAME: {"nc1": 0.5 * epoch, "nc2": None}, "head": {"nc1": 0.25, "nc2": 1.0}}
    return {"epoch": epoch, **scalars, "layers": layers}


def rows(path):
    with path.open(encoding="utf8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_whatever_names_hold_every_epoch_is_read_again(tmp_path, suffix):
    path = tmp_path / "deep" / f"run{suffix}"
    EpochFile(path).append(record(1))
    EpochFile(path).append(record(2))
    assert read_epochs(path) == [record(1), record(2)]
    assert EpochFile(path).read() == [record(1), record(2)]
    if suffix == ".jsonl":
        path.write_bytes(path.read_bytes() + b"\n")  # an empty line
        assert read_epochs(path) == [record(1), record(2)]
    else:
        found = [(r["epoch"], r["layer"], r["nc1"]) for r in rows(path)]
        assert found == [
            ("1", NAME, "0.5"), ("1", "head", "0.25"), ("2", NAME, "1.0"), ("2", "head", "0.25"),
        ]  # fmt: skip


def test_a_line_cut_off_by_a_kill_is_moved_aside_wherever_it_was_cut(tmp_path):
    path, torn = tmp_path / "run.jsonl", tmp_path / "run.jsonl.torn"
    for epoch in (1, 2):
        EpochFile(path).append(record(epoch))
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        torn.unlink(missing_ok=True)
        whole = [1] * (cut >= first - 1) + [2] * (cut >= len(content) - 1)
        assert [r["epoch"] for r in read_epochs(path)] == whole
        file = EpochFile(path)
        assert path.read_bytes() == content[:cut]  # nothing is changed before there is a record
        file.append(record(3))
        assert [r["epoch"] for r in read_epochs(path)] == [*whole, 3]
        end = content[:cut].rfind(b"\n") + 1
        if cut not in (end, first - 1, len(content) - 1):
            assert torn.read_bytes() == content[end:cut] + b"\n"
        else:
            assert not torn.exists()


def test_a_row_cut_off_by_a_kill_is_moved_aside(tmp_path):
    path = tmp_path / "run.csv"
    EpochFile(path).append(record(1))
    content = path.read_bytes()
    for cut in range(1, len(content)):
        path.write_bytes(content[:cut])
        whole = [1] * (content[:cut].count(b"\n") > 1)  # a header and a row
        assert [r["epoch"] for r in read_epochs(path)] == whole
        EpochFile(path).append(record(2))
        assert path.read_bytes().startswith(content[: content[:cut].rfind(b"\n") + 1])
        assert [r["layer"] for r in rows(path)][-2:] == [NAME, "head"]
        assert all(None not in r and None not in r.values() for r in rows(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.csv", b"id,weight\n1,2\n"),
        ("run.csv", b"id,weight"),
        ("run.csv", b"epoch,accuracy\n1,2\n"),
        ("run.csv", b"epoch,\xff\n"),
        ("run.jsonl", b'{"text": "mine"}\n'),
        ("run.jsonl", b'{"text": "mine"}'),
        ("run.jsonl", b"\x00\x00\x00"),
        ("run.jsonl", b'{"epoch": 1, "loss": 2}\n'),
    ],
)
def test_files_of_others_are_refused_and_stay_as_they_are(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run.* give a new path"):
        EpochFile(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("row", ["9,a", "9,a,0.5,1,2,3,4", '9,"a,0.5', "9,a,\xff"])
def test_tables_with_rows_of_another_width_are_refused_and_stay_as_they_are(tmp_path, row):
    """A new column would have lost what they hold."""
    path = tmp_path / "run.csv"
    EpochFile(path).append(record(1))
    content = path.read_bytes() + row.encode("latin1") + b"\n"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"holds other things .* give a new path"):
        EpochFile(path)
    assert path.read_bytes() == content


def test_paths_that_are_no_files_are_refused(tmp_path):
    (tmp_path / "run.csv").mkdir()
    with pytest.raises(ValueError, match="path must be a regular file, got"):
        EpochFile(tmp_path / "run.csv")
    os.mkfifo(tmp_path / "run.jsonl")
    with pytest.raises(ValueError, match="path must be a regular file, got"):
        EpochFile(tmp_path / "run.jsonl")
    with pytest.raises(ValueError, match="path must be a local file, got s3:"):
        EpochFile(type(tmp_path)("s3://bucket/run.jsonl"))
    with pytest.raises(FileExistsError):
        EpochFile(tmp_path / "run.jsonl" / "run.jsonl")


def test_new_and_missing_columns_are_taken(tmp_path):
    path = tmp_path / "run.csv"
    EpochFile(path).append(record(1, loss=0.5))
    file = EpochFile(path)
    file.append(record(2, accuracy=0.75))
    file.append(record(3, loss=0.25))
    found = [(r["epoch"], r["loss"], r["accuracy"]) for r in rows(path)[::2]]
    assert found == [("1", "0.5", ""), ("2", "", "0.75"), ("3", "0.25", "")]
    assert read_epochs(path)[1] == record(2, loss=None, accuracy=0.75)
    assert [path.name for path in tmp_path.iterdir()] == ["run.csv"]


def test_a_table_that_others_change_meanwhile_stops_no_training(tmp_path):
    path = tmp_path / "run.csv"
    file = EpochFile(path)
    file.append(record(1))
    path.write_bytes(path.read_bytes() + b"9,a\n")
    with pytest.warns(UserWarning, match=r"row 4 has 2 cells, and 4 are named.* 1 epoch\(s\) are"):
        file.append(record(2, loss=0.5))
    path.write_bytes(path.read_bytes().removesuffix(b"9,a\n"))
    file.append(record(3))
    assert [r["epoch"] for r in read_epochs(path)] == [1, 2, 3]


@pytest.mark.parametrize("name", ["run.txt", "run", "run.json"])
def test_files_of_another_kind_are_named(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"path must end in .jsonl or .csv, got .*{name}"):
        read_epochs(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_full_disk_takes_whole_epochs_or_nothing_and_loses_none(tmp_path, suffix):
    path = tmp_path / f"run{suffix}"
    file = EpochFile(path)
    file.append(record(1))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.warns(UserWarning, match=r"could not be written .* 1 epoch\(s\) are kept"):
            file.append(record(2))
        with pytest.warns(UserWarning, match=r"2 epoch\(s\) are kept"):
            file.append(record(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    file.append(record(4))
    if suffix == ".csv":
        assert [r["epoch"] for r in rows(path)[::2]] == ["1", "2", "3", "4"]
    else:
        assert read_epochs(path) == [record(epoch) for epoch in (1, 2, 3, 4)]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "run.jsonl"
    line = json.dumps(record(1))
    path.write_text(f"{line}\n{line[:9]}{line}\n{line}\n", encoding="utf8")
    with pytest.raises(ValueError, match=r"other things than the epochs of a monitor \(line 2\)"):
        read_epochs(path)
