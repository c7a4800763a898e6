import json

import pytest
from explored import START, network, shown

from perturb_nc.study.explorer import Explorer


@pytest.fixture(scope="module")
def layers():
    return network(12)


def test_names_are_no_markup_of_plotly(layers):
    name = '<a href="https://x.example">x</a>'
    explorer = Explorer({name: layers["one"], "b": layers["two"]})
    answer = shown(explorer, name, START)
    assert "<a" not in json.dumps(answer[:7])
    assert "&lt;a href" in json.dumps(answer[:7])
