"""Every public docstring names what is raised, also by a helper or by a helper's helper."""

import ast
import builtins
import re
import shutil

from conftest import ROOT

from kvcache.measurements.experiments import UnsteadyError

PACKAGE = ROOT / "kvcache"
CONSTRUCTORS = ("__init__", "__post_init__")
ERRORS = {name: kind for name, kind in vars(builtins).items() if name.endswith(("Error", "ption"))}
ERRORS["UnsteadyError"] = UnsteadyError
# That its file is damaged is told there, and not by all that show a token.
NOT_FOLLOWED = "load_tokenizer"
# It asks for the bytes of shapes and formats that are right.
NEVER_RAISES = ("memory_calculator.MemoryCalculator.still",)


def names_in(nodes):
    """The plain names in some code."""
    parts = [part for node in nodes for part in ast.walk(node)]
    return {part.id for part in parts if isinstance(part, ast.Name)}


class Package:
    """What the functions of a package raise, themselves or in what they call, and what they say.

    Each is known by its file and name: a method by "Class.method", a constructor by its class.
    Calls of methods are followed by the name alone: the code does not tell of which class they are.
    """

    def __init__(self, root):
        self.functions, self.modules, self.imports, self.raised = [], {}, {}, {}
        for path in sorted(root.rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            # The module and the folders that a file can be imported from.
            self.modules[path] = path.relative_to(root).with_suffix("").parts
            self.imports[path] = {
                name.name: (node.module or name.name).split(".")[-1]
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.level
                for name in node.names
            }
            for node in tree.body:
                owner = node if isinstance(node, ast.ClassDef) else None
                for function in owner.body if owner else [node]:
                    if isinstance(function, ast.FunctionDef):
                        self.functions.append((path, owner, function))
        before = None
        while before != self.raised:  # until no call hands on anything new
            before = dict(self.raised)
            for path, owner, function in self.functions:
                key, found = known_by(path, owner, function), self.escaping(function, path, owner)
                self.raised[key] = self.raised.get(key, set()) | found

    def escaping(self, node, path, owner):
        """The names of the errors that leave a piece of code."""
        if isinstance(node, ast.Try):
            found = self.of_all(node.body, path, owner)
            for handler in node.handlers:
                caught = tuple(ERRORS[name] for name in names_in([handler.type]))
                if not any(isinstance(n, ast.Raise) and not n.exc for n in ast.walk(handler)):
                    found = {name for name in found if not issubclass(ERRORS[name], caught)}
            rest = [*node.handlers, *node.orelse, *node.finalbody]
            return found | self.of_all(rest, path, owner)
        found = self.of_all(ast.iter_child_nodes(node), path, owner)
        if isinstance(node, ast.Raise) and node.exc:
            found |= names_in([node.exc]) & ERRORS.keys()
        return found | self.of_call(node, path, owner) if isinstance(node, ast.Call) else found

    def of_all(self, nodes, path, owner):
        return set().union(*(self.escaping(node, path, owner) for node in nodes))

    def of_call(self, call, path, owner):
        """The names of the errors of what is called."""
        called = call.func
        if isinstance(called, ast.Name) and called.id == "need":
            error = [*call.args[3:], *(keyword.value for keyword in call.keywords)]
            return names_in(error) & ERRORS.keys() if error else {"ValueError"}
        if isinstance(called, ast.Name):
            return self.of_name(path, called.id)
        if not isinstance(called, ast.Attribute):
            return set()
        if ast.unparse(called.value) == "super()":
            bases = names_in(owner.bases)
            method = "" if called.attr in CONSTRUCTORS else f".{called.attr}"
            return set().union(*(self.of_name(path, base, method) for base in bases))
        module = self.imports[path].get(ast.unparse(called.value))
        named = [found for key, found in self.raised.items() if key[1].endswith(f".{called.attr}")]
        return self.of_module(module, called.attr).union(*named)

    def of_name(self, path, name, method=""):
        """The errors of a function, class or method of a name that a file has or imports."""
        if name == NOT_FOLLOWED:
            return set()
        own = self.raised.get((path, name + method))
        return self.of_module(self.imports[path].get(name), name + method) if own is None else own

    def of_module(self, module, name):
        files = [path for path, parts in self.modules.items() if module in parts]
        return set().union(*(self.raised.get((path, name), set()) for path in files))

    def docstring(self, path, owner, function):
        """A function's own, or that of the class or of what it stands in place of."""
        if owner and function.name in (*CONSTRUCTORS, "forward"):
            return ast.get_docstring(owner) or ""
        return ast.get_docstring(function) or (owner and self.inherited(owner, function)) or ""

    def inherited(self, owner, function):
        texts = [
            ast.get_docstring(other)
            for _, base, other in self.functions
            if base and base.name in names_in(owner.bases) and other.name == function.name
        ]
        return texts[0] if texts else None

    def said(self, text):
        """A docstring, with those that it refers to."""
        for name in re.findall(r"what `(\w+)` raises", text):
            for path, owner, function in self.functions:
                if known_by(path, owner, function)[1] == name:
                    text += " " + self.said(self.docstring(path, owner, function))
        return text

    def unsaid(self):
        """Where an error is raised that no docstring names: (place, its name)."""
        for path, owner, function in self.functions:
            key = known_by(path, owner, function)
            place, text = f"{path.stem}.{key[1]}", self.said(self.docstring(path, owner, function))
            hidden = "._" in place or place in NEVER_RAISES
            for error in sorted(self.raised[key]) if not hidden else []:
                if not re.search(rf"\b{error}\b", text):
                    yield place, error


def known_by(path, owner, function):
    if owner and function.name in CONSTRUCTORS:
        return path, owner.name
    return path, f"{owner.name}.{function.name}" if owner else function.name


# A file, words of a docstring in it, what then is not said any more, and where
CUT = [
    ("config.py", "Raise ValueError for a batch", "config.check_one_text", {"ValueError"}),
    ("data/__init__.py", "FileNotFoundError", "__init__.checked_path", {"FileNotFoundError"}),
    # What a helper raises; a method of another class; the generator that a function returns
    ("memory.py", "ValueError for a dtype", "memory.weight_bytes", {"ValueError"}),
    ("caches/paged.py", "ValueError if one is not", "paged.PagedCache.batch", {"ValueError"}),
    ("generate.py", "RuntimeError if somebody\n    else uses", "generate.stream", {"RuntimeError"}),
    # What a class says of its constructor, and of its forward pass
    ("widgets/figure.py", "Raises ValueError", "figure.Figure", {"ValueError"}),
    ("llama.py", "TypeError or", "llama.LlamaModel.forward", {"TypeError"}),
    # What another function's docstring says
    ("timing.py", ", and what `stream`", "timing.time_generation", {"RuntimeError", "TypeError"}),
]


def test_every_public_docstring_names_what_is_raised(tmp_path):
    assert list(Package(PACKAGE).unsaid()) == []
    broken = shutil.copytree(PACKAGE, tmp_path / "kvcache")
    for file, words, _, _ in CUT:
        text = (broken / file).read_text(encoding="utf-8")
        assert text.count(words) >= 1
        (broken / file).write_text(text.replace(words, "...", 1), encoding="utf-8")
    found = set(Package(broken).unsaid())
    assert found >= {(place, error) for _, _, place, errors in CUT for error in errors}
