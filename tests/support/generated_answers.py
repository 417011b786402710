"""Answers in the styles of AIME, MATH, OlympiadBench and Minerva, correct or wrong by construction.

Each family draws numbers and gives a gold answer, spellings that equal it, and near misses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from fractions import Fraction

Family = Callable[[random.Random], tuple[str, list[str], list[str]]]

UNITS = (
    (r"\mathrm{m\,s^{-1}}", r"\text{ km/s}"),
    (r"\text{ m/s}", r"\text{ m/s}^2"),
    (r"\,\mathrm{kg}\cdot\mathrm{m}^{-3}", r"\,\mathrm{kg}\cdot\mathrm{m}^{-2}"),
    (r"\ \mu\text{m}", r"\ \text{nm}"),
    (r"\,\mathrm{erg\,s^{-1}}", r"\,\mathrm{erg}"),
    (r"\ M_\odot", r"\ L_\odot"),
    (r"\;[\text{J}]", r"\;[\text{W}]"),
    (r"\,\text{M}\Omega", r"\,\text{k}\Omega"),
)


def integer(r: random.Random) -> tuple[str, list[str], list[str]]:
    n = r.randrange(1000, 999_999)
    grouped = f"{n:,}"
    right = [
        grouped, grouped.replace(",", "{,}"), grouped.replace(",", r",\!"), f"{n}.0",
        grouped.replace(",", r"\,"), rf"N = {n}", rf"\text{{{n}}}", rf"{n - 7} + 7 = {n}",
        rf"\textbf{{(B)}}\ {n}", rf"{n} \text{{ (by induction)}}", rf"\text{{The answer is }}{n}",
        rf"{n}\text{{ ways}}", rf"\mathbf{{{n}}}",
    ]  # fmt: skip
    wrong = [
        str(n + 1), str(-n), f"{n}0", rf"{n} \times 10^{{3}}", rf"{n}!", rf"{n}\pi", rf"{n}x",
        rf"{n} \text{{ or }} {n + 1}", rf"{n} \pmod{{{n + 5}}}", rf"\textbf{{(B)}}\ {n + 1}",
        rf"{n} \text{{ (rejected)}}", rf"x_{{{n}}}", rf"{n}_{{7}} + 1", rf"{n},1",
        rf"10^{{{n}}} q", rf"\hbar + {n}",
    ]  # fmt: skip
    return str(n), right, wrong


def fraction(r: random.Random) -> tuple[str, list[str], list[str]]:
    b = r.choice([3, 7, 9, 11, 13, 17])
    a = r.choice([k for k in range(b + 1, 60) if Fraction(k, b).denominator == b])
    whole, rest = divmod(a, b)
    right = [
        rf"\dfrac{{{a}}}{{{b}}}", f"{a}/{b}", rf"\frac{{{3 * a}}}{{{3 * b}}}",
        rf"{whole}\frac{{{rest}}}{{{b}}}", rf"\frac{{-{a}}}{{-{b}}}", rf"p = \tfrac{{{a}}}{{{b}}}",
        rf"\frac{{{a}}}{{{b}}}\text{{ cm}}", rf"\frac{{1}}{{{b}}} \cdot {a}",
    ]  # fmt: skip
    wrong = [
        rf"\frac{{{b}}}{{{a}}}", rf"-\frac{{{a}}}{{{b}}}", f"{a / b:.3f}", f"{a}{b}", f"({a},{b})",
        rf"E_1 + \frac{{{a}}}{{{b}}}", rf"\frac{{{a}}}{{{b}}} \aleph_0", rf"{a}:{b}:1",
        rf"\frac{{{a}}}{{{b}}} \pm 1", rf"e^{{\frac{{{a}}}{{{b}}} \tau}}",
        rf"\frac{{{a}}}{{{b}}} \oplus c",
    ]  # fmt: skip
    return rf"\frac{{{a}}}{{{b}}}", right, wrong


def surd(r: random.Random) -> tuple[str, list[str], list[str]]:
    a, b, c = r.randrange(2, 9), r.randrange(2, 9), r.choice([2, 3, 5, 7])
    right = [
        rf"{b}\sqrt{c} + {a}", rf"{a} + \sqrt{{{b * b * c}}}", rf"x = {a} + {b}\sqrt{{{c}}}",
        rf"{a} + {b} \cdot {c}^{{1/2}}", rf"{a}+{b}√{c}", rf"{a} + {b}*sqrt({c})",
        rf"{a}+\frac{{{b * c}}}{{\sqrt{{{c}}}}}",
    ]  # fmt: skip
    wrong = [
        rf"{a} - {b}\sqrt{{{c}}}", rf"{a} + {b}\sqrt[3]{{{c}}}", rf"{a + b}\sqrt{{{c}}}",
        rf"{a} + {b}\sqrt{{{c + 1}}}", rf"{a} \pm {b}\sqrt{{{c}}}", f"{a + b * c**0.5:.4f}",
    ]  # fmt: skip
    return rf"{a} + {b}\sqrt{{{c}}}", right, wrong


def roots(r: random.Random) -> tuple[str, list[str], list[str]]:
    a, b, c = r.randrange(2, 9), r.choice([2, 3, 5, 7]), r.randrange(10, 40)
    plus, minus = rf"{a}+\sqrt{{{b}}}", rf"{a}-\sqrt{{{b}}}"
    right = [
        rf"{c}, {minus}, {plus}", rf"\{{{plus}, {minus}, {c}\}}", rf"x = {c}, x = {a} \pm \sqrt{b}",
        rf"{plus}, {minus} \text{{ and }} {c}", rf"x \in \{{{c}, {a}\pm\sqrt{b}\}}",
    ]  # fmt: skip
    wrong = [
        rf"\{{{plus}, {c}\}}", rf"\{{{a}\pm\sqrt{b}, {-c}\}}", rf"\{{{a}\pm\sqrt{b}\}}", str(c),
        rf"\{{{a}\pm\sqrt{b}, {c}, 0\}}", rf"\{{{-a}\pm\sqrt{b}, {c}\}}",
    ]  # fmt: skip
    return rf"\{{{a}\pm\sqrt{{{b}}}, {c}\}}", right, wrong


def interval(r: random.Random) -> tuple[str, list[str], list[str]]:
    a = r.randrange(-9, 3)
    b = a + r.randrange(2, 9)
    right = [
        rf"{a} \le x < {b}", rf"\left[{a}, {b}\right)", rf"x \in [{a},{b})", rf"{b} > x \ge {a}",
        rf"\{{x \mid {a} \le x < {b}\}}", rf"\{{x \in \mathbb{{R}} : {a} \leq x < {b}\}}",
    ]  # fmt: skip
    wrong = [
        f"({a},{b})", f"[{a},{b}]", f"[{a},{b + 1})", rf"{a} < x < {b}", rf"\{{{a},{b}\}}",
        rf"\{{x \mid {a} < x \le {b}\}}", f"({a},{b}]",
    ]  # fmt: skip
    return f"[{a},{b})", right, wrong


def vector(r: random.Random) -> tuple[str, list[str], list[str]]:
    a, b, c = r.sample(range(-20, 20), 3)
    right = [
        f"({a},{b},{c})", rf"\begin{{bmatrix}} {a} \\ {b} \\ {c} \end{{bmatrix}}",
        rf"\langle {a}, {b}, {c}\rangle", rf"(x,y,z) = ({a},{b},{c})",
    ]  # fmt: skip
    wrong = [
        f"({b},{a},{c})", rf"\{{{a},{b},{c}\}}", f"({a},{b})", f"({a},{b},{c + 1})",
        rf"\begin{{pmatrix}} {a} & {b} & {c} \end{{pmatrix}}",
    ]  # fmt: skip
    return rf"\begin{{pmatrix}} {a} \\ {b} \\ {c} \end{{pmatrix}}", right, wrong


def polynomial(r: random.Random) -> tuple[str, list[str], list[str]]:
    a, b = r.sample(range(2, 9), 2)
    right = [
        f"x^2+{a + b}x+{a * b}", f"f(x) = (x+{b})(x+{a})", rf"(x+{a})(x+{b}) \text{{ for all }} x",
        rf"x^{{2}} + {a * b} + {a + b} x", rf"\left(x+{b}\right)\left({a}+x\right)",
    ]  # fmt: skip
    wrong = [
        f"(x-{a})(x-{b})", f"(X+{a})(x+{b})", f"(y+{a})(y+{b})", f"(x+{a})(x'+{b})",
        f"(x+{a})(x_1+{b})", f"(x+{a})+(x+{b})", rf"(x+{a})(x+{b}) \text{{ for all }} x > 0",
    ]  # fmt: skip
    return f"(x+{a})(x+{b})", right, wrong


def quantity(r: random.Random) -> tuple[str, list[str], list[str]]:
    value = f"{r.randrange(1, 10)}.{r.randrange(1, 10)}"
    power = r.choice([-27, -5, 4, 18, 33])
    unit = r.choice(UNITS)[0]
    number = rf"{value} \times 10^{{{power}}}"
    right = [
        number, number + unit, rf"{value} \cdot 10^{{{power}}}", f"{value}E{power}",
        rf"L = {number}{unit}",
    ]  # fmt: skip
    wrong = [
        value, value + unit, rf"{value} \times 10^{{{power + 1}}}{unit}", f"-{number}",
        rf"{value} \times 10^{{{-power}}}{unit}",
    ]  # fmt: skip
    return f"{value}e{power}", right, wrong


def measured(r: random.Random) -> tuple[str, list[str], list[str]]:
    value = f"{r.randrange(11, 99)}.{r.randrange(1, 10)}"
    unit, other = r.choice(UNITS)
    right = [value, f"{value} {unit}", rf"v = {value}{unit}"]
    wrong = [
        value + other,
        rf"{value} \times 10^{{3}} {unit}",
        f"{value}1{unit}",
        f"-{value}{unit}",
    ]
    return value + unit, right, wrong


def physics(r: random.Random) -> tuple[str, list[str], list[str]]:
    a, b = r.randrange(2, 9), r.randrange(2, 9)
    right = [
        rf"\frac{{\gamma m_{{0}} {a} E_1}}{{{b} \hbar}} + \dot x_0",
        rf"\dot{{x}}_{{0}} + \frac{{{a}}}{{{b}}} \cdot \frac{{E_{{1}} m_0 \gamma}}{{\hbar}}",
    ]
    wrong = [
        rf"\frac{{{a} m_0 E_1}}{{{b} \hbar}} + \dot x_0",
        rf"\frac{{{a} \gamma m_0 E_2}}{{{b} \hbar}} + \dot x_0",
        rf"\frac{{{a} \gamma m_0 E_1}}{{{b} \hbar}} + x_0",
        rf"\frac{{{a} \gamma M_0 E_1}}{{{b} \hbar}} + \dot x_0",
        rf"\frac{{{a} \gamma m_0 E_1}}{{{b} \hbar}} - \dot x_0",
        rf"\frac{{{a} \gamma m_0 E_1 \hbar}}{{{b}}} + \dot x_0",
    ]
    return rf"\frac{{{a} \gamma m_0 E_1}}{{{b} \hbar}} + \dot{{x}}_0", right, wrong


def differential(r: random.Random) -> tuple[str, list[str], list[str]]:
    a, b = r.randrange(2, 9), r.randrange(2, 9)
    right = [
        rf"\frac{{dN}}{{dt}} + {b} = {a}N", rf"\frac{{d N}}{{d t}} = -{b} + {a} N",
        rf"{a}N - {b} = \frac{{dN}}{{dt}}",
    ]  # fmt: skip
    wrong = [
        rf"\frac{{dN}}{{dt}} = {b} - {a}N", rf"\frac{{dN}}{{dx}} = {a}N-{b}", rf"N = {a}N - {b}",
        rf"\frac{{d^2N}}{{dt^2}} = {a}N-{b}", rf"0 = {a}N - {b}", rf"N' = {a + 1}N-{b}",
    ]  # fmt: skip
    return rf"\frac{{dN}}{{dt}} = {a}N - {b}", right, wrong


def complex_number(r: random.Random) -> tuple[str, list[str], list[str]]:
    a, b = r.randrange(2, 9), r.randrange(2, 9)
    right = [
        f"{b}i + {a}", rf"z = {a} + {b}\mathrm{{i}}", f"{a}+i{b}",
        rf"\frac{{{2 * a}+{2 * b}i}}{{2}}",
        rf"i({b}-{a}i)",
    ]  # fmt: skip
    wrong = [f"{a}-{b}i", f"{a}+{b}", f"{b}+{a + b}i", f"{a}+{b}j", rf"({a},{b})", f"-{a}-{b}i"]
    return f"{a}+{b}i", right, wrong


def positive(r: random.Random) -> tuple[str, list[str], list[str]]:
    a = r.choice([2, 3, 5, 7])
    right = [
        rf"\frac{{\sqrt{{{a}g}}}}{{\sqrt{{L}}}}", rf"\left(\frac{{{a}g}}{{L}}\right)^{{1/2}}",
        rf"\sqrt{{{a}}}\sqrt{{g/L}}", rf"\omega = \sqrt{{{a}g/L}}",
    ]  # fmt: skip
    wrong = [
        rf"\sqrt{{\frac{{{a}L}}{{g}}}}", rf"-\sqrt{{\frac{{{a}g}}{{L}}}}", rf"\frac{{{a}g}}{{L}}",
        rf"\sqrt{{\frac{{{a}g}}{{l}}}}", rf"{a}\sqrt{{\frac{{g}}{{L}}}}",
    ]  # fmt: skip
    return rf"\sqrt{{\frac{{{a}g}}{{L}}}}", right, wrong


FAMILIES: tuple[Family, ...] = (
    integer, fraction, surd, roots, interval, vector, polynomial, quantity, measured, physics,
    differential, complex_number, positive,
)  # fmt: skip


def cases(seed: int, rounds: int) -> Iterator[tuple[str, str, str, bool]]:
    """(family, gold, prediction, correct) for every family and spelling, so many times."""
    r = random.Random(seed)
    for _ in range(rounds):
        for family in FAMILIES:
            gold, right, wrong = family(r)
            for spellings, correct in ((right, True), (wrong, False)):
                for spelling in spellings:
                    yield family.__name__, gold, rf"Hence it is $\boxed{{{spelling}}}$.", correct
