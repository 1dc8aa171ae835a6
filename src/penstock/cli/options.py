"""Options that several commands have, and their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from penstock.core.errors import UsageError

if TYPE_CHECKING:
    from penstock.core.options import Option


def pipeline_options() -> dict[str, Option]:
    """The options of a pipeline and of its source that commands have; its source is an argument."""
    from penstock.settings import OPTIONS
    from penstock.sources.options import FILES

    own = {name: option for name, option in OPTIONS.items() if name != "source"}
    return own | {option.name: option for option in FILES if option.flag}


def add_pipeline(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """`required`: there is no pipeline to fall back on, so `--into` has to be given."""
    for option in pipeline_options().values():
        add(parser, option, required=required and option.name == "into")


def add_source_options(parser: argparse.ArgumentParser, words: Collection[str]) -> None:
    """Add the flags of the sources whose urls are among the words, but for names that the command has."""
    from penstock.registry import SOURCES, find, scheme

    names = []
    for kind in sorted({name for word in words if (name := scheme(word)) and _has_flags(name)}):
        for option in find(SOURCES, kind).options:
            if option.flag and _flag(option) not in parser._option_string_actions:
                add(parser, option, dest=source_dest(option.name))
                names.append(option.name)
    parser.set_defaults(source_options=names)


def _has_flags(kind: str) -> bool:
    """Whether a source of that name may have flags besides those of files, which each command has. Plug-ins, whose
    lookup takes its time, are asked only for a name that is not built in."""
    from penstock.registry import SINKS, SOURCES, plugins

    if kind in SOURCES:
        return SOURCES[kind].target != SOURCES["file"].target
    return kind not in SINKS and kind in plugins(SOURCES)


def source_dest(name: str) -> str:
    """The attribute of the parsed arguments for an option of a source: its name may be that of an argument as well."""
    return f"source_{name}"


def _flag(option: Option) -> str:
    return f"--{option.name.replace('_', '-')}"


def add(
    parser: argparse.ArgumentParser,
    option: Option,
    *,
    required: bool = False,
    default: Any = None,
    dest: str | None = None,
) -> None:
    """Add an option as it is declared. Its value is `default` where it is not given, so that one can tell."""
    flag, dest, help = _flag(option), dest or option.name, option.help.replace("%", "%%")
    if option.type is bool:
        parser.add_argument(flag, dest=dest, action="store_true", default=default, help=help)
    elif option.type in (tuple, dict) or option.named:
        again = "" if "may come again" in help else "; may come again"
        metavar = option.metavar
        parser.add_argument(flag, dest=dest, metavar=metavar, required=required, action="append", help=help + again)
    else:
        shown = f"{help} ({option.default})".replace("%", "%%") if option.default else help
        parser.add_argument(flag, dest=dest, metavar=option.metavar, type=_value(option), default=default, help=shown)


def _value(option: Option) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return option.parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def add_permissions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-mass-delete", action="store_true", help="let the run take out more than --max-delete")
    parser.add_argument("--adopt", action="store_true", help="take over an index that another ledger filled")


def add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    add_json(group)
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors and what failed")


def add_unattended(parser: argparse.ArgumentParser) -> None:
    """Options for cron, systemd and the like."""
    formats = ("text", "json")
    parser.add_argument("--log-format", choices=formats, default="text", help="of messages on stderr: text, or json")
    parser.add_argument("--stop-ok", action="store_true", help="exit with 0 where SIGTERM has stopped it")


def add_on(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on", metavar="PLACE", help="have `penstock work PLACE` parse and embed, anywhere: shards:///srv/work"
    )


def add_live(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--live", action="store_true", help="go on: follow the source until Ctrl-C or SIGTERM")
    parser.add_argument(
        "--every", metavar="TIME", type=parse_every, help="with --live: list the whole source so often, too (10m)"
    )
    parser.add_argument(
        "--metrics", metavar="HOST:PORT", help="serve /metrics for Prometheus and /healthz there: 127.0.0.1:9100"
    )


def parse_every(text: str) -> float:
    from penstock.support.times import parse_time

    try:
        return parse_time(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="for machines: one JSON object a line, on stdout")


def add_state(parser: argparse.ArgumentParser) -> None:
    help = "the ledger, or penstock.toml, or penstock.toml:NAME where it has several pipelines (the only ledger here)"
    parser.add_argument("--state", metavar="FILE", help=help)


def add_indexes(parser: argparse.ArgumentParser, several: str) -> None:
    """`several`: what more than one is for."""
    help = f"the index: lance://./index; may come again, {several}"
    parser.add_argument("--in", dest="indexes", metavar="URL", action="append", required=True, help=help)


def add_rerank(parser: argparse.ArgumentParser, does: str) -> None:
    parser.add_argument("--rerank", metavar="MODEL", help=does)


def parse_share(text: str) -> float:
    with suppress(ValueError):
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        if 0 <= number <= 1:
            return number
    raise argparse.ArgumentTypeError(f"invalid share {text!r}: expected one such as 1% or 0.01")


def parse_legs(text: str) -> dict[str, float]:
    """The weights of the legs of a hybrid search."""
    legs: dict[str, float] = {}
    for part in text.split(","):
        name, separator, weight = part.partition("=")
        try:
            legs[name.strip()] = float(weight)
        except ValueError:
            expected = "expected LEG=WEIGHT,..., such as words=0.5,vector=1"
            after = "" if separator else "; a question stands before --hybrid"
            raise argparse.ArgumentTypeError(f"invalid weights {text!r}: {expected}{after}") from None
    return legs


def parse_partition(text: str) -> tuple[int, int]:
    with suppress(ValueError):
        share, of = (int(part) for part in text.split("/"))
        if 0 < share <= of:
            return share, of
    raise argparse.ArgumentTypeError(f"invalid share {text!r}: expected one such as 3/100")


def parse_positive(text: str) -> int:
    with suppress(ValueError):
        if (number := int(text)) > 0:
            return number
    raise argparse.ArgumentTypeError(f"invalid number {text!r}: expected at least 1")
