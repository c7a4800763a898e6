"""Tables, sentences and the figure of a bench."""

import io

import pytest
from comparisons import THEORIES, bench
from rich.console import Console

from perturb_nc.show.bench import ALONG, figure, plot_bench
from perturb_nc.show.bench_tables import parts, record, sees_table, sentences


def text(*shown, width=80):
    console = Console(file=io.StringIO(), width=width)
    for part in shown:
        console.print(part, soft_wrap=isinstance(part, str))
    return console.file.getvalue()


def test_the_table_fits_into_80_columns():
    table, *said = parts(record(bench()), title="net")
    written = text(table)
    assert max(map(len, written.splitlines())) <= 80
    rows = {line.split()[0]: line for line in written.splitlines() if line.split()}
    assert rows["central_path"].split()[1:4] == ["0.02*", "0.02", "3"]
    assert "blocks.2: NC2 0.06" in rows["central_path"]
    assert rows["straight_line"].split()[1:] == ["–", "–", "0", "–"]
    assert "3 of 3 layers judged" in written
    assert said == sentences(record(bench()))
    assert max(map(len, text(sees_table()).splitlines())) <= 80
    assert all(name in text(sees_table()) for name in THEORIES)


def test_sentences_say_what_is_followed_and_how_straight():
    said = sentences(record(bench()))
    assert said[0].startswith("follows central_path (0.02), equi_separation (0.021): median")
    assert said[1] == "nearest that says what becomes of features: central_path (0.02)"
    assert said[2] == "nearer, without any theory: local (0.01)"
    assert "way of the class means to blocks.2: line shape 1.25 (1 is straight)" in said[3]
    assert "at most 0.3 of the way off the line (blocks.1)" in said[3]
    nothing = bench(off=dict.fromkeys(THEORIES), status="TIME_LIMIT")
    said = sentences(record(nothing))
    assert said[0] == "follows none: no theory predicts half of the layers"
    assert said[-1].startswith("stopped at the time limit")


def test_the_figure_draws_what_is_predicted():
    axes = plot_bench(bench(), metrics=("nc1", "nc2_etf"))
    lines = {line.get_label(): line for line in axes[0].lines}
    assert "straight line" not in lines
    assert len(lines) == 1 + sum(off is not None for off in THEORIES.values())
    table = bench()
    wanted = table["predicted"].sel(model="chain", quantity="nc1").values
    assert lines["chain"].get_ydata() == pytest.approx(wanted)
    (chain, measured) = plot_bench(table, metrics=("nc1",), theories=("chain",))[0].lines
    assert (chain.get_label(), measured.get_label()) == ("chain", "measured")
    assert len(figure(table, title="a$b").axes) == len(ALONG)
    with pytest.raises(ValueError, match=r"metrics must be among .*, got"):
        plot_bench(table, metrics=("nc9",))
    with pytest.raises(ValueError, match=r"theories must be among .*, got"):
        plot_bench(table, theories=("path",))
