"""docs/formulas.py: formulas of docstrings become LaTeX; what is none stays as it is."""

import runpy
from pathlib import Path

import pytest

FORMULAS = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "formulas.py"))
SAME = {
    "ÑC1 = tr Σ_W / tr Σ_B": r"\widetilde{\mathrm{NC1}} = \operatorname{tr} \Sigma_{W} / "
    r"\operatorname{tr} \Sigma_{B}",
    "Σ_k π_k |μ_k - μ_k^obs|²": r"\sum_{k} \pi_{k} |\mu_{k} - \mu_{k}^{\mathrm{obs}}|^{2}",
    "β/(2N) |H - H0|²": r"\frac{\beta}{2N} |H - H_0|^{2}",
    "βλ_H/(2cN) <R,Y>": r"\frac{\beta\lambda_{H}}{2cN} \langle R,Y\rangle",
    "P⁻¹Σ_W0P⁻¹": r"P^{-1}\Sigma_{W0}P^{-1}",
    "½ (n Π_{l<L} λ_l)^(1/L)": r"\tfrac12 (n \prod_{l<L} \lambda_{l})^{1/L}",
    "√(2(r-1)) + √ρ": r"\sqrt{2(r-1)} + \sqrt{\rho}",
    "M˙ = ŜH_fᵀ + V⊥ᵀ": r"\dot{M} = \hat{S}H_{f}^{\top} + V_\perp^{\top}",
    "γ_in² t <= W*(H)": r"\gamma_{\mathrm{in}}^{2} t \le W^{*}(H)",
}


def squeezed(text):
    return text.replace(" ", "")


@pytest.mark.parametrize("line", SAME)
def test_a_line_as_latex(line):
    assert squeezed(FORMULAS["latex"](line)) == squeezed(SAME[line])


def test_a_number_is_a_tag_and_lines_are_rows():
    assert FORMULAS["rendered"](["    f = 1/(2N) |H|²      (1)"]) == [
        r"f = \frac{1}{2N} |H|^{2} \tag{1}"
    ]
    rows = FORMULAS["rendered"](["  a = b,", "  c = d"])
    assert rows == [r"\begin{aligned}", r"& a = b, \\", r"& c = d \\", r"\end{aligned}"]


@pytest.mark.parametrize(
    "block", ["monitor(epoch, loss=loss)", "within the span    λ_H", "NC1 in λ_W:  s", "x.y()"]
)
def test_words_tables_and_code_stay(block):
    assert FORMULAS["rendered"]([f"    {block}"]) is None
    lines = ["Before.", "", "::", "", f"    {block}", "", "After."]
    assert FORMULAS["typeset"](lines) == lines


def test_a_docstring_holds_its_formula_as_mathematics():
    lines = ["Of:", "", "::", "", "    f = |W|²", "", "Args:", "    a: b."]
    wanted = [
        "Of:", "", "", ".. math::", "", "   f = |W|^{2}", "", "Args:", "    a: b.",
    ]  # fmt: skip
    assert FORMULAS["typeset"](lines) == wanted
