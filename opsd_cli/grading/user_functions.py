"""Functions of the user as graders, named FILE.py:FUNCTION or MODULE:FUNCTION. Only workers import
them.

    def score(problem, completion):
        return float(len(completion) < 200)

`problem` has question, answer, solution, fields and id (`GradedProblem`). What the function may
return is said in `opsd_cli.grading.judgements`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from opsd_cli.domain_files import how_to_make
from opsd_cli.grading.interface import GradedProblem
from opsd_cli.grading.judgements import NotAGrade, Refused, reason_of, reply_of
from opsd_cli.grading.user_files import is_file

SIGNATURE = "write def {function}(problem, completion): return a bool, or a number from 0 to 1"


def judge_of(settings: dict[str, Any]) -> Callable[[GradedProblem, str, float], dict[str, Any]]:
    """The judge that calls the function `settings["target"]`.

    `settings["file"]` becomes the file of the function, for messages.

    Raises:
        Refused: there is no such file, module or function, it cannot be imported, or it does not
            take a problem and a completion.
    """
    function = load_function(settings)
    pass_at = settings["pass_at"]
    code = getattr(function, "__code__", None)
    settings["file"] = code.co_filename if code is not None else settings.get("file")

    def judge(problem: GradedProblem, completion: str, seconds: float) -> dict[str, Any]:
        value = function(problem, completion)
        try:
            return reply_of(value, pass_at)
        except NotAGrade as fault:
            line = f", line {code.co_firstlineno}" if code is not None else ""
            place = f"{Path(settings['file']).name}{line}: " if settings["file"] else ""
            return {"status": "crashed", "reason": f"{place}{settings['name']} {fault}"}

    return judge


def load_function(settings: dict[str, Any]) -> Callable[[GradedProblem, str], Any]:
    """The function, imported; raises as `judge_of`."""
    target = settings["target"]
    where, _, settings["name"] = target.rpartition(":")
    module = _module_of(where, target, settings)
    name = settings["name"]
    function = getattr(module, name, None)
    if function is None:
        there = [n for n, v in vars(module).items() if inspect.isfunction(v) and n[0] != "_"]
        known = f"its functions are {', '.join(there)}" if there else "it has no functions"
        raise Refused(f"grading.grader: {where} has no function {name!r}", known)
    if not callable(function):
        raise Refused(
            f"grading.grader: {name!r} in {where} is not a function",
            SIGNATURE.format(function=name),
        )
    if inspect.iscoroutinefunction(function):
        raise Refused(
            f"grading.grader: {target} is declared with `async def`, and graders are called, not "
            "awaited",
            SIGNATURE.format(function=name),
        )
    try:
        inspect.signature(function).bind(None, "")
    except TypeError as error:
        raise Refused(
            f"grading.grader: {target} cannot be called with a problem and a completion: {error}",
            SIGNATURE.format(function=name),
        ) from error
    except ValueError:  # some functions of C have no signature to look at
        pass
    return function  # type: ignore[no-any-return]


def _module_of(where: str, target: str, settings: dict[str, Any]) -> Any:
    if is_file(where):
        return _from_file(Path(where).expanduser(), target, settings)
    sys.path.append(os.getcwd())  # last, so that nothing there hides an installed module
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise Refused(
                f"grading.grader: there is no module {where!r}",
                "install it, or name a file: grading.grader=FILE.py:FUNCTION",
            ) from error
        raise _not_imported(target, error, settings) from error
    except BaseException as error:
        raise _not_imported(target, error, settings) from error


def _from_file(given: Path, target: str, settings: dict[str, Any]) -> Any:
    path = given.absolute()
    settings["file"] = str(path)
    if not path.is_file():
        raise Refused(
            f"grading.grader: there is no file {str(path)!r}",
            how_to_make(given) or "the path is relative to the working directory",
        )
    sys.path.append(str(path.parent))  # for modules beside it
    name = f"opsd_grader_{path.stem}" if path.stem in sys.modules else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Refused(f"grading.grader: {path} is not a Python file", "name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import does, for dataclasses and pickles
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise _not_imported(target, error, settings) from error
    return module


def _not_imported(target: str, error: BaseException, settings: Mapping[str, Any]) -> Refused:
    missing = isinstance(error, ModuleNotFoundError)
    hint = "install what it imports" if missing else "mend it; it is imported once in each worker"
    return Refused(
        f"grading.grader: {target} cannot be imported: {reason_of(error, settings)}", hint
    )
