import json

import pytest
from explored import START, network, shown

from perturb_nc.study.explorer import Explorer


@pytest.fixture(scope="module")
def layers():
    return network(12)


def test_names_are_no_markup_of_plotly(layers):
    name = "<a href=x>"
    explorer = Explorer({name: layers["one"], "b": layers["two"]})
    answer = shown(explorer, name, START)
    assert "<a" not in json.dumps(answer[:7])
    assert "&lt;a href" in json.dumps(answer[:7])


def test_long_names_are_shortened_and_many_are_thinned(layers):
    names = [f"model.encoder.layers.{i}.feed_forward.output" for i in range(40)]
    explorer = Explorer(dict.fromkeys(names, layers["one"]))
    axis = shown(explorer, names[0], START)[0]["layout"]["xaxis"]
    assert axis["ticktext"][:2] == ["layers.0", "layers.4"]
    assert axis["tickvals"][:2] == [0, 4]
