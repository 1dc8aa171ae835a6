"""Which files of a tree are wanted: include and exclude patterns, in the manner of .gitignore.

    *.md            a name, at any depth
    build           a name at any depth; of a folder: all beneath it
    build/          folders only
    docs/*.md       a slash inside: from the root down
    /README.md      from the root
    docs/**         all beneath docs
    **/old/*.txt    `**` crosses folders, `*` and `?` do not, `[a-z]` and `[!a-z]` are one character

A file is wanted if some include pattern matches it (or there is none) and no exclude pattern does. Excluded and
hidden folders are not even entered. There is no negation with `!`: say what is wanted with include.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Selection:
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    _include: re.Pattern[str] | None = field(init=False, repr=False, compare=False)
    _exclude: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_include", compile_globs(self.include))
        object.__setattr__(self, "_exclude", compile_globs(self.exclude))

    def takes(self, path: str) -> bool:
        """Whether the file at this path below the root is wanted, its name and folders being visible."""
        if self._exclude is not None and self._exclude.match(path):
            return False
        return self._include is None or self._include.match(path) is not None

    def enters(self, path: str) -> bool:
        """Whether the folder at this path below the root is worth listing."""
        return self._exclude is None or not self._exclude.match(path + "/")

    def passes_over(self, path: str) -> str:
        """Why a walk from the root leaves the file at this path alone; nothing where it lists it."""
        if not self.hidden and any(part.startswith(".") for part in path.split("/")):
            return "hidden"
        return "" if self.takes(path) else "excluded"


def compile_globs(globs: Sequence[str]) -> re.Pattern[str] | None:
    """One expression for paths below a root; a folder's path ends with a slash."""
    if not globs:
        return None
    return re.compile("|".join(f"(?:{_translate(glob)})" for glob in globs), re.DOTALL)


def _translate(glob: str) -> str:
    body = glob.rstrip("/")
    if not body or glob.startswith("!"):
        raise UsageError(f"not a pattern for files: {glob!r} (say `*.md`, `docs/**` or `build/`)")
    anchored = "/" in body
    body = body.lstrip("/")
    out = "" if anchored else "(?:.*/)?"
    at = 0
    while at < len(body):
        at, piece = _next(body, at)
        out += piece
    # What a pattern says of a folder holds for all beneath it.
    return out + ("/.*" if glob.endswith("/") else "(?:/.*)?") + r"\Z"


def _next(glob: str, at: int) -> tuple[int, str]:
    """The expression for what stands at this place of a pattern, and the place after it."""
    if glob.startswith("**", at) and (at == 0 or glob[at - 1] == "/"):
        after = at + 2
        if after == len(glob):
            return after, ".*"
        if glob[after] == "/":
            while glob.startswith("**/", after + 1):  # a second one says nothing more and costs backtracking
                after += 3
            return after + 1, "(?:.*/)?"
    char = glob[at]
    if char == "*":
        while at < len(glob) and glob[at] == "*":
            at += 1
        return at, "[^/]*"
    if char == "?":
        return at + 1, "[^/]"
    if char == "[":
        end = glob.find("]", at + 2 + (glob[at + 1 : at + 2] in ("!", "^")))
        if end > 0:
            return end + 1, _set(glob[at + 1 : end], glob)
    if char == "\\" and at + 1 < len(glob):
        return at + 2, re.escape(glob[at + 1])
    return at + 1, re.escape(char)


def _set(members: str, glob: str) -> str:
    negated = members[:1] in ("!", "^")
    # Member by member: two of what stands for itself here may mean something else to `re`.
    inside = re.sub("(.)-(.)|(.)", _member, members[negated:], flags=re.DOTALL)
    try:
        re.compile(f"[{inside}]")
    except re.error:
        raise UsageError(f"not a pattern for files: {glob!r} (the set [{members}] says nothing)") from None
    return f"(?!/)[{'^' if negated else ''}{inside}]"


def _member(found: re.Match[str]) -> str:
    return "-".join(re.escape(part) for part in found.groups() if part is not None)
