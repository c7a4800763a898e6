"""docs/digits.py sees a changed number in a figure, and a changed table."""

import runpy
from pathlib import Path

from matplotlib.figure import Figure

DIGITS = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "digits.py"))


def picture(height=0.25, label="$t$"):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.plot([1, 2, 3], [0.5, height, 0.125])
    left.set_xlabel(label)
    right.scatter([1, 2], [0.1, height])
    right.imshow([[0.0, height]])
    right.bar([0, 1], [height, 1.0])
    return DIGITS["drawn"](figure)


def test_a_number_or_a_word_in_a_figure_is_seen():
    assert picture() == picture()
    changed = picture(0.25 * (1 + 1e-9)).splitlines()
    differing = [
        a.split()[0] for a, b in zip(picture().splitlines(), changed, strict=True) if a != b
    ]
    assert {"line", "points", "image", "patch"} <= set(differing)
    assert picture(label="t") != picture()


def test_what_differs_is_named_by_its_lines(tmp_path):
    for folder, text in (("then", "| a |\n| .12 |\n"), ("now", "| a |\n| .13 |\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "page.txt").write_text(text, encoding="utf8")
    (tmp_path / "now" / "new.txt").write_text("| b |\n", encoding="utf8")
    found = DIGITS["differences"](tmp_path / "then", tmp_path / "now")
    assert found == {"new.txt": ["+| b |"], "page.txt": ["-| .12 |", "+| .13 |"]}
    assert not any(DIGITS["differences"](tmp_path / "now", tmp_path / "now").values())
