"""Every public docstring names what is raised, also by a helper or by a helper's helper."""

import ast
import builtins
import importlib
import inspect
import pkgutil
import textwrap
from pathlib import Path

import kvcache
from kvcache import config, data, llama, load_tokenizer, memory, stream, timing
from kvcache.caches import PagedCache
from kvcache.measurements import showing
from kvcache.widgets import MemoryCalculator, OwnPrompt, figure

(FOLDER,) = kvcache.__path__
CONSTRUCTORS = ("__init__", "__post_init__")
# That its file is damaged is told there, and not by all that show a token. The others catch what
# a reader's measurement or prompt raises, and `still` asks for shapes and formats that are right.
NOT_FOLLOWED = [load_tokenizer, showing.live, OwnPrompt.run, MemoryCalculator.still]


def functions():
    """All functions of the package, each with what tells what it raises.

    What a constructor or a forward pass raises, its class tells.
    """
    found = {}
    for module in pkgutil.walk_packages([FOLDER], "kvcache."):
        for thing in vars(importlib.import_module(module.name)).values():
            is_class = inspect.isclass(thing)
            for member in vars(thing).values() if is_class else [thing]:
                function = inspect.unwrap(getattr(member, "fget", member))
                code = getattr(function, "__code__", None)
                if code and Path(code.co_filename).is_relative_to(FOLDER):
                    by_class = is_class and function.__name__ in (*CONSTRUCTORS, "forward")
                    found[function] = thing if by_class else function
    return found


TOLD_BY = functions()


def meant(node, function):
    """What a name or an attribute of a name means in a function, or None."""
    if isinstance(node, ast.Name):
        return function.__globals__.get(node.id, getattr(builtins, node.id, None))
    if isinstance(node, ast.Attribute):
        return getattr(meant(node.value, function), node.attr, None)
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "super":
        owner = function.__globals__[function.__qualname__.partition(".")[0]]
        return super(owner, owner)
    return None


def errors_in(code, function):
    """The errors that some code names."""
    named = [meant(part, function) for part in ast.walk(code)]
    return {each for each in named if inspect.isclass(each) and issubclass(each, Exception)}


def called_by(call, function):
    """The functions that a call may be of. A method is followed by its name alone."""
    thing = meant(call.func, function)
    if inspect.isclass(thing):
        return [getattr(thing, name, None) for name in CONSTRUCTORS]
    if thing is None and isinstance(call.func, ast.Attribute):
        return [each for each in TOLD_BY if each.__qualname__.endswith(f".{call.func.attr}")]
    return [] if thing in NOT_FOLLOWED else [getattr(thing, "__wrapped__", thing)]


def all_raised():
    """The errors that leave each function: its own, and those of what it calls."""
    raised, calls = {}, {}
    for function in TOLD_BY:
        raised[function], calls[function] = set(), []
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if isinstance(node, ast.Raise):
                raised[function] |= errors_in(node, function)
            elif isinstance(node, ast.Call) and meant(node.func, function) is config.need:
                raised[function] |= errors_in(node, function) or {ValueError}
            elif isinstance(node, ast.Call):
                calls[function] += called_by(node, function)
    before = None
    while raised != before:  # until no call hands on anything new
        before = raised
        raised = {
            function: before[function].union(*(before.get(each, ()) for each in calls[function]))
            for function in TOLD_BY
        }
    return raised


def said(thing):
    """A docstring, with those that it refers to."""
    text = (inspect.isclass(thing) and thing.__doc__) or inspect.getdoc(thing) or ""
    for other in TOLD_BY.values():
        if f"what `{other.__qualname__}` raises" in text:
            text += said(other)
    return text


def unsaid(raised):
    """Where an error is raised that no docstring names: (place, its name)."""
    for function, thing in TOLD_BY.items():
        hidden = "._" in f".{thing.__qualname__}" or function in NOT_FOLLOWED
        for error in raised[function] if not hidden else ():
            if error.__name__ not in said(thing):
                yield thing, error


# A docstring, words in it, and errors that then are not said any more
CUT = [
    (config.check_one_text, "Raise ValueError for a batch", ValueError),
    (data.checked_path, "FileNotFoundError", FileNotFoundError),
    # What a helper raises; a method of another class; the generator that a function returns
    (memory.weight_bytes, "ValueError for a dtype", ValueError),
    (PagedCache.batch, "ValueError if one is not", ValueError),
    (stream, "RuntimeError if somebody", RuntimeError),
    # What a class says of its constructor, and of its forward pass
    (figure.Figure, "Raises ValueError", ValueError),
    (llama.LlamaModel, "TypeError or", TypeError),
    # What another function's docstring says
    (timing.time_generation, ", and what `stream`", RuntimeError),
    (timing.time_generation, ", and what `stream`", TypeError),
]


def test_every_public_docstring_names_what_is_raised(monkeypatch):
    raised = all_raised()
    assert list(unsaid(raised)) == []
    for thing, words, error in CUT:
        with monkeypatch.context() as cut:
            assert words in thing.__doc__
            cut.setattr(thing, "__doc__", thing.__doc__.replace(words, "..."))
            assert (thing, error) in unsaid(raised)
