"""Fingerprints of functions: equal for the same code in every process, different once the code has changed.

Taken of the source where it is at hand, without comments, layout, docstrings and annotations, so that they outlast an
upgrade of Python; else of the bytecode, which belongs to one minor version. See docs/design.md for what they cover.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import inspect
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_CONSTRUCTORS = {"__init__", "__new__", "__post_init__", "__setstate__"}
_UNREADABLE = (OSError, TypeError, SyntaxError, ValueError, RecursionError)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_compiling = threading.Lock()
"""CPython before 3.11.8 counts how deep a tree is for all threads together, and fails where they meet."""
_WITHOUT_EFFECT = {"kind", "type_comment", "annotation", "returns"}
"""Fields of a syntax tree that do not bear on what a function returns."""


@dataclass(frozen=True, slots=True)
class CodeFingerprint:
    digest: str
    uncompared: tuple[str, ...]
    """What the function uses that may change without another digest: a `version` has to say so."""


def code_fingerprint(function: Callable[..., Any]) -> CodeFingerprint:
    """Fingerprint a function, or an object that can be called. Its `version` or `fingerprint`, if it has one, counts
    instead of its code."""
    description = _Description()
    text = repr(description.of(function))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return CodeFingerprint(digest, tuple(sorted(description.uncompared)))


def qualified_name(function: object) -> str:
    """The module and name of a function; of an object that can be called, those of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None) or "builtins"  # methods of built-in types have none
    return f"{module}.{named.__qualname__}"


@dataclass(slots=True)
class _Description:
    """Values as nested tuples, whose repr is the same in every process."""

    uncompared: set[str] = field(default_factory=set)
    _described: dict[int, object] = field(default_factory=dict)
    """By id, and kept, so that no id is used twice."""

    def of(self, function: object) -> object:
        if id(function) in self._described:
            return "again", qualified_name(function)
        self._described[id(function)] = function
        for attribute in ("version", "fingerprint"):
            if isinstance(version := getattr(function, attribute, None), str | int):
                return attribute, qualified_name(function), version
        if isinstance(function, functools.partial):
            keywords = sorted(function.keywords.items())
            values = [self.value(value, f"an argument of {qualified_name(function)}") for value in function.args]
            named = [(key, self.value(value, f"the argument {key}")) for key, value in keywords]
            return "partial", self.of(function.func), values, named
        if isinstance(function, MethodType):
            owner = function.__self__
            return "method", self.of(function.__func__), self.of(owner) if owner is not None else None
        if isinstance(function, FunctionType):
            return self._function(function)
        if isinstance(function, type):
            return "class", [self._class(one) for one in function.__mro__ if not _is_standard(one.__module__)]
        if callable(inner := getattr(function, "__wrapped__", None)):  # functools.lru_cache
            return "wrapper", qualified_name(function), self.of(inner)
        if inspect.isroutine(function):
            return self._builtin(function)
        return self._object(function)

    def value(self, value: object, where: str) -> object:
        """What a closure, an attribute or a default holds: by value if it is simple and cannot change, by its code if
        it can be called."""
        if value is None or value is ... or isinstance(value, bool | int | float | complex | str | bytes):
            return type(value).__name__, str(value) if isinstance(value, Enum) else repr(value)
        if isinstance(value, tuple):
            return "tuple", [self.value(one, where) for one in value]
        if isinstance(value, frozenset):
            return "frozenset", sorted(repr(self.value(one, where)) for one in value)
        if isinstance(value, re.Pattern):
            return "pattern", repr(value.pattern), value.flags
        if isinstance(value, Enum):
            return "enum", str(value)
        if isinstance(value, ModuleType):
            return "module", value.__name__
        if isinstance(value, FunctionType | MethodType | functools.partial) and not _is_standard(qualified_name(value)):
            return self.of(value)
        if hasattr(value, "__qualname__"):  # a class, or a function of a library
            return "name", qualified_name(value)
        self.uncompared.add(where)
        return "type", qualified_name(type(value))

    def _function(self, function: FunctionType) -> object:
        code = function.__code__
        source = _source_of(function)
        body = source if source is not None else (_bytecode(code), self._globals(function))
        rebound = set(_stored(code, "STORE_DEREF"))
        closure = [
            (name, self.value(cell.cell_contents, f"{name} of {qualified_name(function)}"))
            for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
            if name not in rebound and name != "__class__" and _is_filled(cell)
        ]
        where = f"a default of {qualified_name(function)}"
        defaults = [self.value(value, where) for value in function.__defaults__ or ()]
        named = [(name, self.value(value, where)) for name, value in sorted((function.__kwdefaults__ or {}).items())]
        return "function", function.__qualname__, body, closure, defaults, named

    def _globals(self, function: FunctionType) -> object:
        """What a function without source uses of its module: the functions there by their code."""
        rebound = set(_stored(function.__code__, "STORE_GLOBAL"))
        names = {name for code in _codes(function.__code__) for name in code.co_names} - rebound
        used = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
        return [
            (name, self.value(value, f"{name} of {function.__module__}"))
            if getattr(value, "__module__", function.__module__) == function.__module__
            else (name, "name", qualified_name(value))
            for name, value in used.items()
        ]

    def _class(self, cls: type) -> object:
        source = _statement_of(cls)
        if source is not None:
            return cls.__qualname__, source
        methods = [(name, one) for name, one in sorted(vars(cls).items()) if isinstance(one, FunctionType)]
        return cls.__qualname__, [(name, self.of(one)) for name, one in methods]

    def _builtin(self, function: Any) -> object:
        """A function without code of Python: by its name, and what it is a method of."""
        name = qualified_name(function)
        owner = getattr(function, "__self__", None)
        if owner is not None and not isinstance(owner, ModuleType):
            return "builtin", name, self.value(owner, f"the object of {name}")
        if not _is_standard(name):
            self.uncompared.add(name)
        return "builtin", name

    def _object(self, value: object) -> object:
        """An object by its class and its attributes, but for those that its methods write: these are what it does, and
        not how it was made."""
        cls = type(value)
        methods = [one for base in cls.__mro__ for name, one in vars(base).items() if name not in _CONSTRUCTORS]
        written = {
            name for one in methods if isinstance(one, FunctionType) for name in _stored(one.__code__, "STORE_ATTR")
        }
        slots = [
            name for base in cls.__mro__ for name in _names(vars(base).get("__slots__", ())) if hasattr(value, name)
        ]
        held = {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})
        attributes = [
            (name, self.value(one, f"{name} of {qualified_name(cls)}"))
            for name, one in sorted(held.items())
            if name not in written and not name.startswith("__")
        ]
        if not any(isinstance(one, FunctionType) for one in methods):
            self.uncompared.add(qualified_name(cls))
        return "object", self.of(cls), attributes


# ---------------------------------------------------------------- source


_believed: dict[str, str] = {}
"""The source of each file when last it was what runs: the file may have been edited since."""


def _source_of(function: FunctionType) -> object:
    """The syntax of a function and of what it uses of its module; None where that is not at hand, or is by now another
    than the one that runs."""
    code = function.__code__

    def find(tree: ast.Module, lines: Collection[int]) -> list[ast.AST]:
        return [node for node in ast.walk(tree) if _name(node) == code.co_name and _first_line(node) in lines]

    return _syntax(code, code.co_filename, [function], function.__globals__, find)


def _statement_of(cls: type) -> object:
    """The same of a class that stands at the top of its module."""

    def find(tree: ast.Module, lines: Collection[int]) -> list[ast.AST]:
        return [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__qualname__]

    if (module := sys.modules.get(cls.__module__)) is None:
        return None
    methods = [one for one in vars(cls).values() if isinstance(one, FunctionType)]
    return _syntax(module, getattr(module, "__file__", None) or "", methods, vars(module), find)


def _syntax(
    source: Any,
    file: str,
    functions: Sequence[FunctionType],
    space: Mapping[str, Any],
    find: Callable[[ast.Module, Collection[int]], Sequence[ast.AST]],
) -> object:
    """The syntax of what `find` finds, given where `functions` begin, and of what it uses of its module, whose names
    are in `space`. Only if the source compiles to what runs: the one that was believed before, or the file as it is."""
    try:
        now = "".join(inspect.findsource(source)[0])
    except _UNREADABLE:
        now = ""
    texts = [text for text in dict.fromkeys((_believed.get(file), now)) if text]
    # A name that is bound anew while the program runs has another value than in any source.
    for values, text in ((values, text) for values in (True, False) for text in texts):
        try:
            with _compiling:
                tree = ast.parse(text)
                codes = list(_codes(compile(tree, file, "exec", dont_inherit=True)))
        except _UNREADABLE:
            continue
        lines = {line for one in functions for line in _lines(one, codes)}
        nodes = find(tree, lines)
        if len(nodes) != 1:
            continue
        bound = _bindings(tree, nodes[0])
        used = [space.get(name) for name in bound]
        running = [*functions, *(one for one in used if isinstance(one, FunctionType))]
        if values and not _holds(tree, bound, space):
            continue
        if all(_lines(one, codes) for one in running if one.__code__.co_filename == file):
            _believed[file] = text
            return _normal(nodes[0]), sorted(bound.items(), key=lambda pair: pair[0])
    return None


def _holds(tree: ast.Module, names: Collection[str], space: Mapping[str, Any]) -> bool:
    """Whether those of these names that are bound to constants have these values."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)) if name in names:
                if space.get(name) != value:
                    return False
    return True


def _lines(function: FunctionType, codes: Sequence[CodeType]) -> list[int]:
    """Where code begins that is the function's."""
    code = function.__code__
    alike = [one for one in codes if one.co_name == code.co_name]
    return [one.co_firstlineno for one in alike if _bytecode(one) == _bytecode(code)]


def _bindings(tree: ast.Module, node: ast.AST) -> dict[str, object]:
    """The syntax of the statements of the module that bind the names that a node uses, and that these use."""
    bound: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _bound(statement):
            bound.setdefault(name, []).append(statement)
    found: dict[str, object] = {}
    waiting = [node]
    while waiting:
        for name in sorted(_used(waiting.pop()) & bound.keys() - found.keys()):
            found[name] = [_binding(statement, name) for statement in bound[name] if statement is not node]
            waiting += [statement for statement in bound[name] if statement is not node]
    return found


def _binding(statement: ast.stmt, name: str) -> object:
    """A statement; of an import only what it says of that name."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        one = next(alias for alias in statement.names if name in (alias.asname, alias.name.partition(".")[0]))
        return "import", getattr(statement, "module", None) or "", getattr(statement, "level", 0), one.name
    return _normal(statement)


def _bound(statement: ast.AST) -> Iterator[str]:
    """The names that a statement binds in the scope where it stands."""
    if isinstance(statement, _DEFINITIONS):
        yield statement.name
    elif isinstance(statement, ast.alias):
        yield statement.asname or statement.name.partition(".")[0]
    elif isinstance(statement, ast.Name):
        if isinstance(statement.ctx, ast.Store):
            yield statement.id
    elif not isinstance(statement, ast.Lambda):
        for child in ast.iter_child_nodes(statement):
            yield from _bound(child)


def _used(node: ast.AST) -> set[str]:
    added_to = [one.target for one in ast.walk(node) if isinstance(one, ast.AugAssign)]
    names = [one for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)]
    return {one.id for one in (*names, *added_to) if isinstance(one, ast.Name)}


def _normal(node: object) -> object:
    """Syntax as nested tuples, without what is only for readers, and alike in all versions of Python."""
    if isinstance(node, list):
        return [_normal(one) for one in node]
    if not isinstance(node, ast.AST):
        return type(node).__name__, repr(node)
    fields = [
        (name, _normal(value))
        for name, value in ast.iter_fields(node)
        if name not in _WITHOUT_EFFECT and value is not None and value != []
    ]
    if isinstance(node, _DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
        fields = [(name, value[1:] if name == "body" and isinstance(value, list) else value) for name, value in fields]
    return type(node).__name__, fields


def _name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Lambda):
        return "<lambda>"
    return node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None


def _first_line(node: Any) -> int:
    return int(min(one.lineno for one in [node, *getattr(node, "decorator_list", [])]))


# ---------------------------------------------------------------- bytecode


def _bytecode(code: CodeType) -> object:
    """Code without lines, columns and files."""
    variables = (code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    return code.co_code.hex(), code.co_names, variables, counts, [_constant(one) for one in code.co_consts]


def _constant(value: object) -> object:
    if isinstance(value, CodeType):
        return _bytecode(value)
    if isinstance(value, frozenset):
        return "frozenset", sorted(map(repr, value))
    return type(value).__name__, repr(value)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code, and the code of all that is defined in it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _codes(one)


def _stored(code: CodeType, operation: str) -> Iterator[str]:
    """The names that the code binds by this operation."""
    for one in _codes(code):
        yield from (str(step.argval) for step in dis.get_instructions(one) if step.opname == operation)


# ---------------------------------------------------------------- values


def _is_standard(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _names(slots: str | tuple[str, ...]) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
