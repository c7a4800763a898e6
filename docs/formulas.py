"""Formulas of docstrings, written in Unicode for whoever reads the code, as LaTeX for the pages."""

import re
import unicodedata

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta",
    "θ": "theta", "κ": "kappa", "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "φ": "varphi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Λ": "Lambda",
    "Σ": "Sigma", "Π": "Pi",
}  # fmt: skip
_SIGNS = {
    "∇": "nabla", "∂": "partial", "∈": "in", "⊕": "oplus", "⊗": "otimes", "≻": "succ", "≤": "le",
    "≥": "ge", "⟨": "langle", "⟩": "rangle", "‖": "|", "·": "cdot", "…": "dots", "ℓ": "ell",
}  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀ⊥", "0123456789+-Tp")
_NAMES = {"tr", "min", "max", "log", "cos", "diag", "argmin"}
_WORDS = {"out", "obs", "NC", "CE"}  # upright, and no reason to leave a formula as it is
_MARKS = {"\u0302": "hat", "\u0304": "bar", "\u0303": "tilde", "\u0307": "dot", "˙": "dot"}
_FENCES = {"(": ")", "[": "]", "{": "}"}


def typeset(lines: list[str]) -> list[str]:
    """A docstring in reStructuredText whose literal blocks are formulas where they can be."""
    found, place = list[str](), 0
    while place < len(lines):
        if lines[place] != "::":
            found.append(lines[place])
            place += 1
            continue
        end = place + 1
        while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
            end += 1
        rows = rendered([line for line in lines[place + 1 : end] if line.strip()])
        literal = lines[place:end]
        found += literal if rows is None else ["", ".. math::", "", *(f"   {r}" for r in rows), ""]
        place = end
    return found


def rendered(block: list[str]) -> list[str] | None:
    """The lines of a formula as LaTeX, one row a line; None for what is a table, words or code."""
    whole = "\n".join(block)
    words = set(re.findall(r"[A-Za-z]{3,}", unicodedata.normalize("NFD", whole)))
    if words - _NAMES - _WORDS or re.search(r"\bin\b|[#\"`]|\w\(\)|\w\.\w", whole):
        return None
    rows, number = [], ""
    for line in block:
        line = line.strip()
        if tag := re.search(r"\s{2,}\((\d)\)$", line):
            number, line = rf" \tag{{{tag[1]}}}", line[: tag.start()]
        rows.append(latex(line))
    if len(rows) == 1:
        return [rows[0] + number]
    body = [f"& {row} \\\\" for row in rows]
    return [r"\begin{aligned}", *body, r"\end{aligned}" + number]


def latex(line: str) -> str:
    """One line of a formula."""
    text = re.sub(r"ÑC(\d)", r"⟦NC\1⟧", line)
    text = unicodedata.normalize("NFD", text).replace("<=", "≤").replace(">=", "≥")
    text = re.sub(r"<([^<>]+)>", r"⟨\1⟩", text)
    text = re.sub(r"([A-Z])\*\(", r"\1^*(", text)
    return _terms(text).strip()


def _terms(text: str) -> str:
    found, place = [], 0
    while place < len(text):
        term, place = _term(text, place)
        found.append(term)
    return "".join(found)


def _term(text: str, at: int) -> tuple[str, int]:
    """The LaTeX of what begins at a place, and where the next thing begins."""
    rest = text[at:]
    if space := re.match(r"\s{2,}", rest):
        return (r"\; " if space.end() == 2 else r"\qquad "), at + space.end()
    if ratio := re.match(r"(1|L|β?λ_\w|β)/(?:\((\w+)\)|(2))", rest):
        over, under = _terms(ratio[1]), _terms(ratio[2] or ratio[3])
        return rf"\frac{{{over.strip()}}}{{{under}}}", at + ratio.end()
    if wide := re.match(r"⟦(.*?)⟧", rest):
        return rf"\widetilde{{\mathrm{{{wide[1]}}}}}", at + wide.end()
    if raised := re.match(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀ]+", rest):
        power = raised[0].translate(_RAISED).replace("T", r"\top ")
        return f"^{{{power}}}", at + raised.end()
    if rest[0] in "_^":
        inner, end = _group(text, at + 1)
        return f"{rest[0]}{{{inner}}}", end
    if rest[0] == "√":
        inner, end = _group(text, at + 1)
        return rf"\sqrt{{{inner}}}", end
    if name := re.match(r"[A-Za-z]{2,}(?![\u0300-\u036f])", rest):
        return _named(name[0], text, at)
    return _symbol(text, at)


def _named(name: str, text: str, at: int) -> tuple[str, int]:
    """A function's name, an upright word, or letters multiplied."""
    end = at + len(name)
    for known in sorted(_NAMES, key=len, reverse=True):
        if name == known:
            return rf"\operatorname{{{name}}} ", end
    if name in _WORDS or re.match(r"NC$", name):
        digit = re.match(r"\d?", text[end:])[0]  # type: ignore[index]
        return rf"\mathrm{{{name}{digit}}}", end + len(digit)
    return _symbol(text, at)


def _symbol(text: str, at: int) -> tuple[str, int]:
    """A letter or sign with its mark, its index 0 and a prime."""
    sign, end = text[at], at + 1
    if sign in "Σ∑" and text[end : end + 1] in (" ", "_") and not re.match(r"_[WBkfb]", text[end:]):
        return r"\sum ", end
    if sign == "Σ" and re.match(r"_k (?=[πm])", text[end:]):
        return r"\sum ", end
    if sign == "Π" and text[end : end + 1] == "_":
        return r"\prod ", end
    if sign == "½":
        return r"\tfrac12 ", end
    if sign == "⊥":
        return r"_\perp ", end
    said = sign
    if sign in _GREEK or sign in _SIGNS:
        said = f"\\{(_GREEK | _SIGNS)[sign]} "
    elif sign in "{}":
        said = f"\\{sign}"
    while text[end : end + 1] in _MARKS and end < len(text):
        said, end = rf"\{_MARKS[text[end]]}{{{said.strip()}}}", end + 1
    if sign.isalpha() and re.match(r"0(?![\d.])", text[end:]):
        return f"{said.strip()}_0 ", end + 1
    return said, end


def _group(text: str, at: int) -> tuple[str, int]:
    """What an index, an exponent or a root takes: a bracket without itself, or one name."""
    if text[at] in "({":
        depth = 0
        for end in range(at, len(text)):
            depth += (text[end] in _FENCES) - (text[end] in _FENCES.values())
            if depth == 0:
                return _terms(text[at + 1 : end]), end + 1
    if word := re.match(r"in|max|min|out|obs", text[at:]):
        return rf"\mathrm{{{word[0]}}}", at + word.end()
    if re.match(r"[A-Z]0", text[at:]):
        return text[at : at + 2], at + 2
    if text[at] == "*":
        return "*", at + 1
    return _symbol(text, at)
