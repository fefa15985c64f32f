"""A hash of the code that an experiment runs, so that a record of other code is noticed.

Comments, docstrings and spaces do not count: whoever words a comment anew measures nothing again.
"""

import ast
import hashlib
import inspect
import re
import symtable
import sys
import textwrap
from dataclasses import is_dataclass
from types import FunctionType, ModuleType

FRAMEWORK = ("code_hash", "experiments", "records", "showing")
IGNORED = (*(f"kvcache.measurements.{name}" for name in FRAMEWORK), "kvcache.told", "kvcache.plots")
GIVING = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AugAssign, ast.With, ast.If)
VALUES = (int, float, str, tuple, list, range)  # of constants; their text says all


def code_hash(function):
    """A short hash of a function and of all that it uses of kvcache, and of its notebook.

    Of kvcache that is: functions, classes and constants. Of a notebook: the statements of its cells
    that gave a name what it stands for. What other packages do does not count: the record names
    their versions.
    """
    codes = {}
    collect(function.__qualname__, source_of(function), function.__globals__, codes)
    return hashlib.sha256(repr(sorted(codes.items())).encode()).hexdigest()[:16]


def collect(name, source, scope, codes):
    """Add bare code, and that of all that it names, to `codes`, by name."""
    tree = ast.parse(source)
    words = global_names(source)
    attributes = [
        getattr(scope[node.value.id], node.attr, None)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id in words and isinstance(scope.get(node.value.id), ModuleType)
    ]
    codes[name] = bare(tree)
    for word in sorted(words & scope.keys()):
        found = scope[word]
        if word.isupper() and (isinstance(found, VALUES) or is_dataclass(found)):
            codes[f"{name} {word}"] = repr(found)
        elif statements := in_cells(word, scope):
            if f"__main__.{word}" not in codes:
                collect(f"__main__.{word}", statements, scope, codes)
        else:
            attributes.append(found)
    for found in attributes:
        found = inspect.unwrap(found) if callable(found) else found
        module = getattr(found, "__module__", None) or ""
        ours = module.startswith("kvcache.") and not module.startswith(IGNORED)
        name = f"{module}.{getattr(found, '__qualname__', '')}"
        if ours and isinstance(found, FunctionType | type) and name not in codes:
            collect(name, source_of(found), vars(sys.modules[module]), codes)


def source_of(thing):
    return textwrap.dedent(inspect.getsource(thing))


def in_cells(name, scope):
    """The source of the statements in a notebook's cells that give a global its value."""
    found = {}
    for cell in scope.get("In", []):
        lines = re.sub(r"(?m)^(\s*)[%!](?=[a-z]).*", r"\1pass", cell).splitlines()
        for node in ast.parse("\n".join(lines)).body if name in cell else []:
            first = min(
                [node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))]
            )
            text = "\n".join(lines[first - 1 : node.end_lineno])
            symbols = symtable.symtable(text, "", "exec").get_symbols()
            given = name in (each.get_name() for each in symbols if each.is_assigned())
            if given and isinstance(node, GIVING):
                found[text] = None  # once, where a cell ran twice
    return "\n".join(found)


def global_names(source):
    """The names that source code takes from outside."""
    names, tables = set(), [symtable.symtable(source, "", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            outside = symbol.is_global() or not symbol.is_assigned()
            if symbol.is_referenced() and outside and not symbol.is_parameter():
                names.add(symbol.get_name())
    return names


def bare(node):
    """Code as nested lists that are the same in every Python; without docstrings and claims."""
    if isinstance(node, list):
        return [bare(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        node.body = node.body[ast.get_docstring(node) is not None :]
        node.decorator_list = [
            each for each in node.decorator_list if not ast.unparse(each).startswith("experiment(")
        ]
    fields = [value for _, value in ast.iter_fields(node) if value is not None and value != []]
    return [type(node).__name__, *(bare(value) for value in fields)]
