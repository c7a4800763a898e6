"""Names and numbers as they are shown."""

import pytest

from perturb_nc.show.labels import literal, short_names


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["embed", "blocks.0"], ["embed", "blocks.0"]),
        (
            ["model.encoder.layers.0.output", "model.encoder.layers.11.output"],
            ["layers.0", "layers.11"],
        ),
        (["module.features.0.stem", "module.features.0.head"], ["stem", "head"]),
        (["a" * 30], ["…" + "a" * 19]),
        (["x" + "a" * 30, "y" + "a" * 30], ["x" + "a" * 30, "y" + "a" * 30]),
        (["same.long.name.of.a.layer", "same.long.name.of.a.layer.1"], None),
        ([], []),
    ],
)
def test_names_are_shortened_and_stay_different(names, short):
    found = short_names(names)
    assert len(set(found)) == len(set(names))
    if short is not None:
        assert found == short


def test_names_in_figures_are_no_mathematics_and_leave_room():
    assert literal("a $b$") == r"a \$b\$"
    assert literal("n" * 40) == "n" * 40
    assert literal("n" * 5000 + "end") == "…" + "n" * 36 + "end"
