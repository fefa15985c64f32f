"""A hash of the code that an experiment runs, so that a record of other code is noticed.

Comments, docstrings and spaces do not count: whoever words a comment anew measures nothing again.
"""

import ast
import dis
import hashlib
import inspect
import textwrap
from dataclasses import is_dataclass
from types import CodeType, FunctionType, ModuleType

from IPython.core.inputtransformer2 import TransformerManager

NAMES = ("code_hash", "experiments", "records", "showing")  # they measure, and are not measured
IGNORED = (*(f"kvcache.measurements.{name}" for name in NAMES), "kvcache.told", "kvcache.plots")
GIVING = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AugAssign, ast.With, ast.If)
CONSTANTS = (int, float, str, tuple, list, range)  # their text says all


def code_hash(function):
    """A short hash of a function and of all that it uses of kvcache, and of its notebook.

    Of kvcache that is: functions, classes and constants. Of a notebook: the statements of its cells
    that gave a name what it stands for. What other packages do does not count: the record names
    their versions.
    """
    codes = {}
    collect(function.__qualname__, inspect.getsource(function), function.__globals__, codes)
    return hashlib.sha256(repr(sorted(codes.items())).encode()).hexdigest()[:16]


def collect(name, source, scope, codes):
    """Add bare code, and that of all that it names, to `codes`, by name."""
    if name in codes:
        return
    tree = ast.parse(textwrap.dedent(source))
    codes[name] = bare(tree)
    words = names_in(compile(ast.fix_missing_locations(tree), name, "exec"))
    used = [vars(scope[word]) for word in words & scope.keys() if is_our_module(scope[word])]
    for names in (scope, *used):
        for word in words & names.keys():
            found = inspect.unwrap(names[word]) if callable(names[word]) else names[word]
            if word.isupper() and (isinstance(found, CONSTANTS) or is_dataclass(found)):
                codes[f"{name} {word}"] = repr(found)
            elif statements := in_cells(word, names.get("In", [])):
                collect(f"__main__.{word}", statements, scope, codes)
            elif isinstance(found, FunctionType | type) and is_our_module(
                module := inspect.getmodule(found)
            ):
                called = f"{module.__name__}.{found.__qualname__}"
                collect(called, inspect.getsource(found), vars(module), codes)


def is_our_module(thing):
    """Whether it is a module of kvcache whose code may be measured."""
    name = thing.__name__ if isinstance(thing, ModuleType) else ""
    return name.startswith("kvcache.") and not name.startswith(IGNORED)


def names_in(code):
    """The names that compiled code uses, also in the functions and classes inside it."""
    inside = [names_in(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inside)


def in_cells(name, cells):
    """The source of the statements in a notebook's cells that give a global its value."""
    found = {}
    for cell in (cell for cell in cells if name in cell):
        try:
            tree = ast.parse(TransformerManager().transform_cell(cell))
        except SyntaxError:
            continue  # it gave nothing
        for node in (node for node in tree.body if isinstance(node, GIVING)):
            code = compile(ast.Module([node], []), "", "exec")
            if name in {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}:
                found[ast.unparse(node)] = None  # once, where a cell ran twice
    return "\n".join(found)


def bare(node):
    """Code as nested lists that are the same in every Python; without docstrings and claims."""
    if isinstance(node, list):
        return [bare(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        node.body = node.body[ast.get_docstring(node) is not None :] or [ast.Pass()]
        claims = [
            each for each in node.decorator_list if ast.unparse(each).startswith("experiment(")
        ]
        node.decorator_list = [each for each in node.decorator_list if each not in claims]
    fields = [value for _, value in ast.iter_fields(node) if value is not None and value != []]
    return [type(node).__name__, *(bare(value) for value in fields)]
