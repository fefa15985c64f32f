"""A hash of the code that an experiment runs, so that a record of other code is noticed.

Comments, docstrings and spaces do not count: whoever words a comment anew measures nothing again.
"""

import ast
import hashlib
import inspect
import io
import sys
import textwrap
import tokenize
from types import FunctionType, ModuleType

FRAMEWORK = ("code_hash", "experiments", "records", "showing")
IGNORED = (*(f"kvcache.measurements.{name}" for name in FRAMEWORK), "kvcache.told", "kvcache.plots")


def code_hash(function):
    """A short hash of a function and of all functions and classes of kvcache that it uses.

    Those that a notebook defines count as well. What other packages do does not: the record names
    their versions.
    """
    texts = {}
    collect(function, texts)
    joined = "\n".join(f"{name}\n{texts[name]}" for name in sorted(texts))
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def collect(thing, texts):
    """Add the bare code of a function or class, and of what it names, to `texts`, by name."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    if name in texts:
        return
    source = source_of(thing)
    texts[name] = bare(source)
    scope = getattr(thing, "__globals__", None) or vars(sys.modules[thing.__module__])
    for found in named(source, scope):
        while hasattr(found, "__wrapped__"):
            found = found.__wrapped__
        module = getattr(found, "__module__", None) or ""
        ours = module.startswith("kvcache.") and not module.startswith(IGNORED)
        if isinstance(found, FunctionType | type) and (ours or module == "__main__"):
            collect(found, texts)


def source_of(thing):
    """The source of a function or class; of a notebook's class, that of its methods."""
    if isinstance(thing, type) and thing.__module__ == "__main__":
        parts = [getattr(part, "__func__", part) for part in vars(thing).values()]
        written = [part for part in parts if isinstance(part, FunctionType)]
        sources = [
            inspect.getsource(part)
            for part in written
            if part.__module__ == "__main__"
            and not part.__code__.co_filename.startswith("<string>")
        ]
        return "".join(textwrap.dedent(source) for source in sources)
    return textwrap.dedent(inspect.getsource(thing))


def named(source, scope):
    """The objects that source code names: globals, and attributes of modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id in scope:
            yield scope[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = scope.get(node.value.id)
            if isinstance(module, ModuleType) and hasattr(module, node.attr):
                yield getattr(module, node.attr)


def bare(source):
    """Source without decorators of experiments, docstrings, comments and white space."""
    lines = source.splitlines(keepends=True)
    cuts = []  # (line, column) to (line, column)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                cuts.append((first.lineno, 0, first.end_lineno, len(lines[first.end_lineno - 1])))
            for decorator in node.decorator_list:
                if ast.unparse(decorator).startswith("experiment("):
                    cuts.append((decorator.lineno, 0, decorator.end_lineno, 10_000))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            cuts.append((*token.start, *token.end))
    kept = []
    for number, line in enumerate(lines, start=1):
        for first, start, last, end in cuts:
            if first <= number <= last:
                a = start if number == first else 0
                b = end if number == last else len(line)
                line = line[:a] + " " * len(line[a:b]) + line[b:]
        kept.append("".join(line.split()))
    return "".join(kept)
