"""A hash of the code that an experiment runs, so that a record of other code is noticed.

Comments, docstrings and spaces do not count: whoever words a comment anew measures nothing again.
"""

import ast
import hashlib
import inspect
import sys
import textwrap
from types import FunctionType, ModuleType

FRAMEWORK = ("code_hash", "experiments", "records", "showing")
IGNORED = (*(f"kvcache.measurements.{name}" for name in FRAMEWORK), "kvcache.told", "kvcache.plots")


def code_hash(function):
    """A short hash of a function and of all that it uses of kvcache, and of its notebook.

    That is: functions, classes, the classes of objects, and constants. What other packages do does
    not count: the record names their versions.
    """
    codes = {}
    collect(function, codes)
    return hashlib.sha256(repr(sorted(codes.items())).encode()).hexdigest()[:16]


def collect(thing, codes):
    """Add the bare code of a function or class, and of what it names, to `codes`, by name."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    if name in codes:
        return
    tree = ast.parse(source_of(thing))
    codes[name] = bare(tree)
    scope = getattr(thing, "__globals__", None) or vars(sys.modules[thing.__module__])
    bases = [("", base) for base in getattr(thing, "__bases__", ())]
    for word, found in [*named(tree, scope), *bases]:
        if word.isupper() and isinstance(found, int | float | str | tuple | list | range | dict):
            codes[f"{name} {word}"] = repr(found)
        found = inspect.unwrap(found) if isinstance(found, FunctionType) else found
        kind = found if isinstance(found, FunctionType | type) else type(found)
        module = getattr(kind, "__module__", None) or ""
        ours = module.startswith("kvcache.") and not module.startswith(IGNORED)
        if ours or module == "__main__":
            collect(kind, codes)


def source_of(thing):
    """The source of a function or class; of a notebook's class, that of its methods."""
    parts = [thing]
    if isinstance(thing, type) and thing.__module__ == "__main__":
        parts = [getattr(part, "__func__", part) for part in vars(thing).values()]
        parts = [inspect.unwrap(part) for part in parts if isinstance(part, FunctionType)]
        # What a dataclass writes for itself has no source.
        parts = [part for part in parts if part.__code__.co_filename != "<string>"]
    return "".join(textwrap.dedent(inspect.getsource(part)) for part in parts)


def named(tree, scope):
    """What code names: (name, object) of globals, and of attributes of modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in scope:
            yield node.id, scope[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = scope.get(node.value.id)
            if isinstance(module, ModuleType) and hasattr(module, node.attr):
                yield node.attr, getattr(module, node.attr)


def bare(node):
    """Code as nested lists that are the same in every Python; without docstrings and claims."""
    if isinstance(node, list):
        return [bare(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        node.body = node.body[ast.get_docstring(node) is not None :]
        node.decorator_list = [
            each for each in node.decorator_list if "experiment(" not in ast.unparse(each)
        ]
    fields = [value for _, value in ast.iter_fields(node) if value is not None and value != []]
    return [type(node).__name__, *(bare(value) for value in fields)]
