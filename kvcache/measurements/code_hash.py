"""A hash of the code that an experiment runs, so that a record of other code is noticed.

Comments, docstrings and spaces do not count: whoever words a comment anew measures nothing again.
"""

import ast
import dis
import hashlib
import inspect
import textwrap
from contextlib import suppress
from dataclasses import is_dataclass
from types import CodeType, FunctionType, ModuleType

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
    modules = [scope[word] for word in words & scope.keys() if isinstance(scope[word], ModuleType)]
    for names in (scope, *(vars(module) for module in modules if is_ours(module.__name__))):
        for word in words & names.keys():
            found = inspect.unwrap(names[word]) if callable(names[word]) else names[word]
            if word.isupper() and (isinstance(found, CONSTANTS) or is_dataclass(found)):
                codes[f"{name} {word}"] = repr(found)
            elif statements := in_cells(word, names.get("In", [])):
                collect(f"__main__.{word}", statements, scope, codes)
            elif isinstance(found, FunctionType | type) and is_ours(str(found.__module__)):
                called = f"{found.__module__}.{found.__qualname__}"
                collect(called, inspect.getsource(found), vars(inspect.getmodule(found)), codes)


def is_ours(module):
    """Whether a module of that name belongs to kvcache, and its code may be measured."""
    return module.startswith("kvcache.") and not module.startswith(IGNORED)


def names_in(code):
    """The names that compiled code uses, also in the functions and classes inside it."""
    inside = [names_in(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inside)


def in_cells(name, cells):
    """The source of the statements in a notebook's cells that give a global its value."""
    found = {}
    for cell in (cell for cell in cells if name in cell):
        with suppress(SyntaxError):  # a cell that is no Python gave nothing
            for node in (node for node in ast.parse(cell).body if isinstance(node, GIVING)):
                code = compile(ast.Module([node], []), "", "exec")
                if any(i.opname == "STORE_NAME" and i.argval == name for i in dis.Bytecode(code)):
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
        kept = [d for d in node.decorator_list if not ast.unparse(d).startswith("experiment(")]
        node.decorator_list = kept
    fields = [value for _, value in ast.iter_fields(node) if value is not None and value != []]
    return [type(node).__name__, *(bare(value) for value in fields)]
