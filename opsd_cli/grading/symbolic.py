"""Equivalence of two sympy objects: expressions, matrices, equations, inequalities, sets.

Expressions are compared by their values at sample points and not by `simplify`: this is faster, and
more reliable where variables stand for positive numbers (`simplify` does not know that sqrt(1/n) is
1/sqrt(n)). Two expressions are equal if they agree, to 15 digits of their difference, wherever both
are real. An undefined value equals nothing: the difference of two undefined values is undefined,
and must not be taken for zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from latex2sympy2_extended import is_expr_of_only_symbols
from math_verify import verify
from sympy import (
    AccumBounds,
    And,
    Basic,
    Eq,
    Expr,
    GreaterThan,
    I,
    LessThan,
    MatrixBase,
    Pow,
    Rational,
    Set,
    StrictGreaterThan,
    StrictLessThan,
    Tuple,
    Unequality,
    ceiling,
    floor,
    fraction,
    im,
    nan,
    oo,
    re,
    solve,
    together,
    zoo,
)
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

#: Sample values of the variables: unrelated to each other, none at a special point of a function.
_POSITIVE = tuple(Rational(*pair) for pair in ((7, 5), (29, 31), (13, 37), (53, 23), (41, 11)))
_SIGNED = tuple(Rational(*pair) for pair in ((-11, 13), (17, 29), (-43, 19), (-3, 31), (59, 37)))
_LARGE = tuple(Rational(*pair) for pair in ((83, 7), (127, 3), (211, 13), (59, 9), (307, 11)))
#: Digits for two numbers without variables: 10^150 and sqrt(10^300 + 1) share 300 digits.
_DIGITS = 1000
#: Sample points at which two expressions must agree; agreement by accident at two is negligible.
_MIN_AGREEING = 2
_MAX_POWER = 10_000


def equivalent(gold: Any, answer: Any) -> bool:
    """True if two parsed objects of any kinds are equivalent."""
    gold, answer = _unwrapped(gold, answer)
    if isinstance(gold, MatrixBase) or isinstance(answer, MatrixBase):
        return _same_matrices(gold, answer)
    relations = _relations(gold), _relations(answer)
    if relations[0] and relations[1]:
        return _same_relations(relations[0], relations[1])
    if isinstance(gold, Expr) and isinstance(answer, Expr):
        return same_value(gold, answer)
    if isinstance(gold, Basic) and isinstance(answer, Basic):
        return _verified(gold, answer)
    return False


def _unwrapped(gold: Any, answer: Any) -> tuple[Any, Any]:
    """If the other side is no relation, replace `6*7 = 42` by 42 and a gold `x = 3` by 3."""
    gold, answer = _chain(gold), _chain(answer)
    if isinstance(answer, Eq) and not _relations(gold):
        return gold, answer.rhs
    if isinstance(gold, Eq) and is_expr_of_only_symbols(gold.lhs) and not _relations(answer):
        return gold.rhs, answer
    return gold, answer


def _chain(parsed: Any) -> Any:
    """`a = b = c` as `a = c`."""
    if isinstance(parsed, And) and all(isinstance(part, Eq) for part in _parts(parsed)):
        parts = _parts(parsed)
        return Eq(parts[0].lhs, parts[-1].rhs, evaluate=False)
    return parsed


def _parts(parsed: And) -> list[Any]:
    return list(getattr(parsed, "_unsorted_args", parsed.args))


def _verified(gold: Any, answer: Any) -> bool:
    return bool(
        verify(
            [gold],
            [answer],
            numeric_precision=100,
            float_rounding=10,
            allow_set_relation_comp=True,
            timeout_seconds=None,  # the supervisor kills
        )
    )


def _same_matrices(gold: Any, answer: Any) -> bool:
    gold, answer = (_evaluated(side) for side in (gold, answer))
    if not (isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase)):
        return False
    return gold.shape == answer.shape and all(map(equivalent, gold.flat(), answer.flat()))


def _evaluated(parsed: Any) -> Any:
    try:
        return parsed.doit()
    except Exception:
        return parsed


def same_value(gold: Expr, answer: Expr) -> bool:
    """True if two expressions have the same value for all values of their variables."""
    gold, answer = _evaluated(gold), _evaluated(answer)
    if any(side.has(nan, zoo, AccumBounds) for side in (gold, answer)):
        return False
    if gold == answer:
        return True
    if any(side.has(oo, -oo) for side in (gold, answer)):
        return False
    if isinstance(gold, Rational) and isinstance(answer, Rational):
        return False
    if not (gold.free_symbols or answer.free_symbols):
        zero = _zero(gold - answer, _DIGITS)
        return _verified(gold, answer) if zero is None else zero
    agreed = 0
    if not (_unfit_for_points(gold) or _unfit_for_points(answer)):
        for point in _points(gold, answer):
            found = _agree(gold, answer, point)
            if found is False:
                return False
            agreed += found is True
    return agreed >= _MIN_AGREEING or (agreed == 0 and _verified(gold, answer))


def _unfit_for_points(expression: Expr) -> bool:
    """True if an expression cannot be evaluated at a point, or only to a very long number."""
    return bool(expression.atoms(AppliedUndef)) or any(
        power.exp.is_Integer and abs(power.exp) > _MAX_POWER for power in expression.atoms(Pow)
    )


def _points(*expressions: Expr) -> Iterator[dict[Any, Any]]:
    """Sample points for the variables; includes integers if floor or ceiling occurs."""
    symbols = sorted(set().union(*(e.free_symbols for e in expressions)), key=lambda s: s.name)
    for values in (_POSITIVE, _SIGNED, _LARGE):
        for shift in (0, 1) if values is not _LARGE else (0,):
            yield {
                symbol: values[(place + shift) % len(values)] + place // len(values)
                for place, symbol in enumerate(symbols)
            }
    if any(expression.has(floor, ceiling) for expression in expressions):
        for number in range(1, 24):
            yield {symbol: Rational(number + 3 * place) for place, symbol in enumerate(symbols)}


def _agree(gold: Expr, answer: Expr, point: dict[Any, Any]) -> bool | None:
    """True if both have the same value at a point; None if the point does not decide."""
    try:
        first, second = gold.subs(point), answer.subs(point)
        if any(side.has(nan, zoo, oo, -oo) for side in (first, second)):
            return None
        zero = _zero(first - second)
    except MemoryError:
        raise
    except Exception:
        return None
    if zero is not False:
        return zero
    return False if _decisive(first, second, gold, answer) else None


def _decisive(first: Expr, second: Expr, *expressions: Expr) -> bool:
    """True if two different values at a point prove that the expressions differ.

    They do not where a root or logarithm is complex because a variable is negative, unless the
    imaginary unit occurs in the expressions.
    """
    return any(e.has(I) for e in expressions) or all(_zero(im(side)) for side in (first, second))


def _zero(number: Expr, digits: int = 100) -> bool | None:
    """True if a number is zero; None if it cannot be evaluated.

    evalf uses up to `digits` digits; a result with a precision of 1 bit means that all digits have
    cancelled.
    """
    if number.is_Rational:
        return bool(number == 0)
    value = number.evalf(15, maxn=digits)
    for part in (re(value), im(value)):
        if part == 0:
            continue
        if not part.is_Float:
            return None
        if part._prec != 1:
            return False
    return True


def _relations(parsed: Any) -> list[Relational]:
    if isinstance(parsed, Relational):
        return [parsed] if not isinstance(parsed.rhs, Set | Tuple) else []
    if isinstance(parsed, And):
        parts = _parts(parsed)
        return parts if all(isinstance(part, Relational) for part in parts) else []
    return []


def _same_relations(gold: list[Relational], answer: list[Relational]) -> bool:
    left = list(answer)
    for relation in gold:
        match = next((i for i, other in enumerate(left) if _same_relation(relation, other)), None)
        if match is None:
            return _same_sets(gold, answer)
        del left[match]
    return not left


def _difference(relation: Relational) -> tuple[type, Expr]:
    """A relation as (kind, difference): the difference is = 0, != 0, > 0 or >= 0."""
    difference = relation.lhs - relation.rhs
    if isinstance(relation, StrictLessThan):
        return StrictGreaterThan, -difference
    if isinstance(relation, LessThan):
        return GreaterThan, -difference
    return type(relation), difference


def _same_relation(gold: Relational, answer: Relational) -> bool:
    (kind, first), (other, second) = _difference(gold), _difference(answer)
    if kind is not other or first.free_symbols != second.free_symbols:
        return False
    equation = kind in (Eq, Unequality)
    if _proportional(first, second, equation):
        return True
    if not equation:
        return False
    first, second = (fraction(together(side))[0] for side in (first, second))
    return _proportional(first, second, True) or _same_solutions(first, second)


def _proportional(gold: Expr, answer: Expr, any_sign: bool) -> bool:
    """True if one is a constant multiple of the other, a positive one unless `any_sign`."""
    ratio, agreed = None, 0
    for point in _points(gold, answer):
        first, second = _evaluated(gold).subs(point), _evaluated(answer).subs(point)
        if any(side.has(nan, zoo, oo, -oo) for side in (first, second)):
            continue
        zeros = _zero(first), _zero(second)
        if None in zeros or zeros[0] != zeros[1]:
            return False
        if zeros[0]:
            continue
        if ratio is None:
            ratio = first / second
            if not any_sign and not bool(ratio.evalf(15) > 0):
                return False
        elif not _zero(first - ratio * second):
            if _decisive(first, second, gold, answer):
                return False
            continue
        agreed += 1
    return agreed > _MIN_AGREEING


def _same_solutions(gold: Expr, answer: Expr) -> bool:
    """True if two equations have the same non-empty solutions for their first variable."""
    if gold.has(I) or answer.has(I):
        return False  # variables are parsed as real, so the solver drops complex solutions
    symbol = min(gold.free_symbols, key=lambda s: s.name, default=None)
    try:
        wanted, found = solve(gold, symbol), solve(answer, symbol)
    except Exception:
        return False
    if not wanted or len(wanted) != len(found):
        return False
    left = list(found)
    for solution in wanted:
        match = next((i for i, other in enumerate(left) if same_value(solution, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _same_sets(gold: list[Relational], answer: list[Relational]) -> bool:
    """True if inequalities in one variable have the same solution set."""
    symbols = {s for relation in (*gold, *answer) for s in relation.free_symbols}
    if len(symbols) != 1 or any(isinstance(r, Eq) for r in (*gold, *answer)):
        return False
    try:
        wanted, found = (And(*relations).as_set() for relations in (gold, answer))
        return bool(wanted == found or wanted.symmetric_difference(found).is_empty)
    except Exception:
        return False
