"""Figures in notebooks, where they are asked for."""

import base64
import re
import subprocess
import sys

import perturb_nc as pnc

CODE = """
import perturb_nc as pnc
result = pnc.near_collapse_spectrum(
    num_classes=3, dim=4, samples_per_class=5, lambda_w=0.1, lambda_h=0.1, beta=1.0
)
assert "<img" not in result._repr_html_()
import perturb_nc.show.notebook
print(result._repr_html_())
"""


def test_results_are_drawn_once_the_module_is_imported():
    command = [sys.executable, "-c", CODE]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "<table>" in page
    (data,) = re.findall(r'<img alt="NearCollapseSpectrum, drawn" src="[^,]*,([^"]+)"/>', page)
    assert b"</svg>" in base64.b64decode(data)


def test_each_kind_has_its_picture():
    from perturb_nc.show import notebook

    s = pnc.exact_collapse(num_classes=3, dim=4, lambda_w=0.1, lambda_h=0.1).statistics(5)
    s = s.moved(1.1 * s.means, 0.01 * s.second_moment)
    path = pnc.central_path_flow(s, lambda_w=0.1, lambda_h=0.01, times=[0.0, 0.5, 1.0])
    layers = {"<b>": s, "c": path.statistics(1), "d": path.statistics(2)}
    kinds = [
        path,
        pnc.cascade(s, lambda_w=0.1, lambda_h=0.01, betas=[4.0]),
        pnc.calibrate_depth(layers, lambda_w=0.1, lambda_h=0.01),
        pnc.small_vicinity(s, lambda_w=0.1, lambda_h=0.1, beta=1.0),
    ]
    for result in kinds:
        page = result._repr_html_()
        assert page.count("<img") == 1
        assert "<b>" not in page.replace("<caption><b>", "")
    assert notebook.load_ipython_extension(None) is None
