"""The report's section on the theories of depth."""

import pytest
import xarray as xr
from comparisons import THEORIES, bench, comparison

from perturb_nc.show.report.bench import sections
from perturb_nc.show.report.page import _colours
from perturb_nc.show.report.page import sections as page_sections
from perturb_nc.study.comparison import bench_of, load_comparison, save_comparison, with_bench


@pytest.fixture
def both():
    return with_bench(comparison(), bench())


def test_a_comparison_keeps_its_bench(both, tmp_path):
    assert bench_of(comparison()) is None
    save_comparison(both, tmp_path / "c.json")
    found = bench_of(load_comparison(tmp_path / "c.json"))
    xr.testing.assert_allclose(found.drop_vars("network"), bench().drop_vars("network"))
    assert found["network"].values.tolist() == ["net"] * 3
    assert found.attrs == bench().attrs
    with pytest.raises(ValueError, match="bench must be of the layers of the comparison"):
        with_bench(comparison(), bench(layers=("other", "blocks.1", "blocks.2")))


def test_the_section_says_what_the_network_follows(both):
    assert sections(comparison()) == []
    (section,) = sections(both)
    about, said, figure, table = section.parts
    assert "3 of 3 layers" in about.text
    assert said.sentences[0].startswith("Follows central_path (0.02), equi_separation")
    rows = {row[0].text: row for row in table.rows}
    assert list(rows) == list(THEORIES)
    assert [cell.best for cell in rows["equi_separation"][1:3]] == [True, False]
    assert rows["straight_line"][1].why
    assert rows["chain"][1].value == pytest.approx(0.2)
    names = [trace["name"] for trace in figure.figure["data"]]
    assert "straight_line" not in names
    frame = figure.figure["frames"][[*figure.views].index("NC1")]["data"]
    wanted = bench()["predicted"].sel(model="chain", quantity="nc1").values
    assert frame[names.index("chain")]["y"] == pytest.approx(wanted)
    marks = {trace["meta"] for trace in figure.figure["data"]}
    assert len(marks) == len(names)
    assert all(f"--mark-{mark}:" in _colours() for mark in marks)
    assert [s.key for s in page_sections(both)].count("bench") == 1
    assert [s.key for s in page_sections(comparison())].count("bench") == 0
