import csv
import io

import pytest

from perturb_nc.measure.epoch_table import columns, read_records, rows, table_text

FORMULAS = ["=1+1", "+a", "-2+3|cmd", "@SUM(A1)", "\t=1", "\r=1", "\n=1"]
TEXTS = [*FORMULAS, *(f"'{text}" for text in FORMULAS), *(f"''{text}" for text in FORMULAS)]
PLAIN = ["a", "'a", "''", "blocks.0", "a=1", "1-2"]


def written(*records):
    names = columns(records, [])
    return table_text([row for r in records for row in rows(r)], names, header=True)


@pytest.mark.parametrize("text", [*TEXTS, *PLAIN])
def test_texts_are_read_as_written_and_none_is_a_formula(text):
    given = {"epoch": 1, "note": text, text: 0.5, "layers": {text: {"nc1": -0.25}}}
    table = written(given)
    lines = csv.reader(io.StringIO(table, newline=""))
    cells = [cell for line in lines for cell in line if cell != "-0.25"]
    assert all(cell[0] not in "=+-@\t\r\n" for cell in cells)
    assert text not in FORMULAS or cells.count(f"'{text}") == 3
    assert text not in PLAIN or cells.count(text) == 3  # as it is
    assert read_records(table.encode()) == {1: given}


def test_values_keep_their_kinds():
    given = {
        "epoch": 3, "loss": -1e-300, "n": -7, "ok": True, "note": "1_0", "share": None,
        "layers": {"a": {"nc1": 0.1, "nc2": None}, "b": {"nc1": 1 / 3, "nc2": 2.0}},
    }  # fmt: skip
    (found,) = read_records(written(given).encode()).values()
    assert found == given
    assert [type(v) for v in found.values()] == [type(v) for v in given.values()]
    nothing = {"epoch": 4, "loss": float("inf"), "layers": {"a": {"nc1": float("nan")}}}
    (found,) = read_records(written(nothing).encode()).values()
    assert found == {"epoch": 4, "loss": None, "layers": {"a": {"nc1": None}}}


def test_of_an_epoch_measured_again_the_last_counts():
    first = {"epoch": 1, "layers": {"a": {"nc1": 1.0}, "b": {"nc1": 2.0}}}
    second = {"epoch": 2, "layers": {"a": {"nc1": 3.0}}}
    again = {"epoch": 1, "layers": {"a": {"nc1": 4.0}}}
    assert read_records(written(first, again).encode()) == {1: again}
    found = read_records(written(first, second, {**again, "layers": {"c": {"nc1": 5.0}}}).encode())
    assert found == {1: {**again, "layers": {"c": {"nc1": 5.0}}}, 2: second}


def test_what_is_of_an_epoch_stands_before_the_layer():
    record = {"epoch": 1, "loss": 0.5, "layers": {"a": {"nc1": 1.0, "new": 2.0}}}
    assert columns([record], ["epoch", "layer", "nc1"]) == ["epoch", "loss", "layer", "nc1", "new"]
