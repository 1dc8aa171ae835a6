"""Commands and options of the command line.

Nothing heavy is imported: `penstock --help` answers at once. The options of a pipeline come from Settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import NamedTuple

from penstock import __version__
from penstock.cli.alert_options import add_alert_command
from penstock.cli.evaluation_options import add_evaluate, add_reindex
from penstock.cli.options import (
    add,
    add_indexes,
    add_json,
    add_live,
    add_on,
    add_output,
    add_permissions,
    add_pipeline,
    add_rerank,
    add_source_options,
    add_state,
    add_unattended,
    parse_legs,
    parse_partition,
    parse_positive,
    parse_share,
    pipeline_options,
)
from penstock.cli.output.streams import STATUSES
from penstock.cli.parser import CommandParser
from penstock.cli.server_options import add_keys_and_logs, add_keys_command
from penstock.cli.worker_options import add_work

EPILOG = "\n".join(
    [
        "exit status:",
        *(f"  {status:<4} {meaning}" for status, meaning in STATUSES.items()),
        "",
        "Results go to stdout, progress and errors to stderr. PENSTOCK_DEBUG=1 shows tracebacks.",
    ]
)


def make_parser(only: Collection[str] | None = None) -> argparse.ArgumentParser:
    """The parser of the command line, complete or, as that is quicker, with the options of some commands `only`."""
    parser = CommandParser(
        prog="penstock",
        description="Streams documents through parse, chunk and embed into a vector database, inside a memory budget,"
        " and keeps the index true to its source.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"penstock {__version__}", help="say which version")
    parser.set_defaults(command="", log_format="text")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)
    for name, command in COMMANDS.items():
        child = commands.add_parser(name, help=command.help, description=command.help[0].upper() + command.help[1:])
        child.set_defaults(command=name, target=command.target, long=command.long)
        if only is None or name in only:
            command.add_options(child)
            if command.composes:
                add_source_options(child, only or ())
    return parser


# ---------------------------------------------------------------- commands


def _ingest(parser: argparse.ArgumentParser) -> None:
    from penstock.settings import OPTIONS

    parser.add_argument("path", metavar="PATH", nargs="+", help=OPTIONS["source"].help)
    add_pipeline(parser, required=True)
    add_permissions(parser)
    add_on(parser)
    add_live(parser)
    add_output(parser)
    add_unattended(parser)


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="the settings: source, into, model, chunk, memory ...; [[pipeline]] for several"
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="run only this one of several; may come again"
    )
    add_permissions(parser)
    add_on(parser)
    add_live(parser)
    add_output(parser)
    add_unattended(parser)


def _search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY", nargs="?", help="the question, in words")
    parser.add_argument("--image", metavar="FILE", help="an image instead: what looks like it")
    add_indexes(parser, "for several that are searched together, by rank")
    parser.add_argument("-k", type=parse_positive, default=10, metavar="N", help="how many results (10)")
    parser.add_argument("--document", metavar="URI", help="in this document only: a path or a uri")
    parser.add_argument(
        "--where",
        metavar="FILTER",
        action="append",
        default=[],
        help="narrow it: NAME=VALUE, NAME!=VALUE, 'NAME>=VALUE' (<=, >, <), 'NAME^=PREFIX', of fields such as page,"
        ' type, department, author.name; or in JSON: \'{"page": {"$gte": 2}}\'. May come again: all must hold. Values'
        ' that are JSON are taken as such (3, true, "3", ["a", "b"]: one of these); others are texts',
    )
    parser.add_argument(
        "--facets",
        metavar="NAMES",
        action="append",
        default=[],
        help="count the values of these fields, department,tags, over all that --where lets pass; may stand without a"
        " query; may come again",
    )
    parser.add_argument(
        "--since", metavar="TIME", help="of that time or later, by its field `time` or else `modified`: 2h, 2026-11-30"
    )
    parser.add_argument("--using", metavar="NAME", help="the vector to search by, where the index has several")
    parser.add_argument(
        "--hybrid",
        metavar="LEG=WEIGHT,...",
        nargs="?",
        const=True,
        default=False,
        type=parse_legs,
        help="search by all vectors of the index and by its full text, as far as it has one, and fuse the ranks; or by"
        " these legs, with these weights: words=0.5,vector=1",
    )
    add_rerank(parser, "have a cross-encoder order the best hits, at least 50: a folder, or a name on the model hub")
    parser.add_argument("--threshold", type=float, metavar="SCORE", help="only what scores at least so much")
    parser.add_argument("--type", choices=("text", "image"), help="texts only, or images")
    copies = parser.add_mutually_exclusive_group()
    copies.add_argument("--all", action="store_true", help="show every hit, also those with the same text as another")
    copies.add_argument(
        "--distinct",
        action="store_true",
        help="collapse near-duplicates as well: hits whose vectors are nearly the same",
    )
    parser.add_argument("--full", action="store_true", help="show whole chunks, not a snippet of each")
    add_json(parser)


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", nargs="*", help="as for ingest; none: the ledger's pipeline")
    add_pipeline(parser, required=False)
    add_json(parser)


def _status(parser: argparse.ArgumentParser) -> None:
    add_state(parser)
    add_json(parser)


def _ledgers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="where they are (.penstock)")
    parser.add_argument("--prune", action="store_true", help="remove those whose index is gone, or filled by another")
    parser.add_argument("-y", "--yes", action="store_true", help="do so without asking")
    add_json(parser)


def _failures(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--accept", metavar="URI", nargs="+", help="live with those of these documents, as they are")
    choice.add_argument("--accept-all", action="store_true", help="live with all that there are")
    choice.add_argument("--unaccept", metavar="URI", nargs="+", help="have those of these documents count again")
    choice.add_argument("--traceback", action="store_true", help="show where a component of your own raised an error")
    add_state(parser)
    add_json(parser)


def _retry(parser: argparse.ArgumentParser) -> None:
    add_state(parser)
    add_output(parser)
    add_unattended(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", metavar="PARTS", nargs="?", help="a folder of parts, as `embed` makes them, instead")
    parser.add_argument("--repair", action="store_true", help="mend what differs, with a run")
    parser.add_argument("--allow-mass-delete", action="store_true", help="let the repair take out more than max_delete")
    parser.add_argument("--sample", metavar="SHARE", type=parse_share, default=0.0, help="embed so many again (1%%)")
    add_state(parser)
    add_output(parser)
    add_unattended(parser)


def _documents(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", help="a part of the name, or a glob such as '*.pdf'")
    parser.add_argument("--failing", action="store_true", help="those that `retry` would try again")
    parser.add_argument("--missing", action="store_true", help="those that the source no longer has, or cannot read")
    parser.add_argument("--removed", action="store_true", help="what `remove` took out for good, instead")
    parser.add_argument("--limit", metavar="N", type=parse_positive, help="the first N only")
    add_state(parser)
    add_json(parser)


def _remove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="+", help="the path or uri of a document, or of a folder of them")
    parser.add_argument("--undo", action="store_true", help="let the next run bring in again what was removed there")
    parser.add_argument("--dry-run", action="store_true", help="say only what would go")
    parser.add_argument("-y", "--yes", action="store_true", help="ask for no confirmation")
    add_state(parser)
    add_output(parser)


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="a document's path or uri; or a point's id, as `search --json` shows it"
    )
    parser.add_argument("--chunks", action="store_true", help="list the document's chunks as well")
    add_state(parser)
    add_json(parser)


def _copy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="URL", help="the index to read: lance://./index")
    parser.add_argument("--into", metavar="URL", required=True, help="where to: empty, or an unfinished copy")
    add_output(parser)


def _embed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="+", help="a folder of images, or a url such as s3://bucket/images"
    )
    parser.add_argument("--model", metavar="M", required=True, help="a CLIP or SigLIP model: a name or a folder")
    parser.add_argument("--out", metavar="PARTS", required=True, help="where the parts go: a folder or a url")
    share = parser.add_mutually_exclusive_group()
    share.add_argument("--partition", metavar="I/N", type=parse_partition, help="the I-th of N shares: 3/100")
    share.add_argument("--claim", action="store_true", help="one shard after the other that no other worker has")
    parser.add_argument(
        "--pieces", metavar="N", type=parse_positive, default=64, help="with --claim: how many shards (64)"
    )
    parser.add_argument("--rows", metavar="N", type=parse_positive, default=4096, help="rows a part (4096)")
    memory = pipeline_options()["memory"]
    add(parser, memory, default=memory.default)
    parser.add_argument("--workers", metavar="N", type=parse_positive, help="images read at once (as many as cores)")
    parser.add_argument("--again", action="store_true", help="try once more what failed in finished shards")
    add_output(parser)


def _load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", metavar="PARTS", help="the folder or url that `embed` wrote to")
    parser.add_argument("--into", metavar="URL", required=True, help="the index: lance://./images")
    parser.add_argument("--incomplete", action="store_true", help="though some shards are not finished")
    parser.add_argument("--replace-model", action="store_true", help="though the index is of another model")
    add_output(parser)


def _import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("foreign", metavar="FOLDER", help="the folder with them")
    parser.add_argument("--out", metavar="PARTS", required=True, help="where the parts go")
    parser.add_argument("--model-name", metavar="NAME", required=True, help="the model that made the vectors")
    add_output(parser)


def _serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", metavar="URL", required=True, help="the index: lance://./index")
    parser.add_argument("--model", metavar="M", help="its model (int8:FOLDER if it was made so), where that has moved")
    add_rerank(parser, "the cross-encoder of searches that ask for reranking: a folder, or a name on the model hub")
    parser.add_argument("--host", metavar="ADDRESS", help="where to listen (127.0.0.1)")
    parser.add_argument("--port", metavar="N", type=int, help="at which port (8080); 0: any that is free")
    parser.add_argument("--root", metavar="FOLDER", action="append", help="show indexed images of it; may come again")
    parser.add_argument("--fetch-urls", action="store_true", help="fetch images: those of searches, and indexed ones")
    parser.add_argument("--origin", metavar="URL", action="append", help="let pages of that origin ask; may come again")
    parser.add_argument("--rate", metavar="N", type=float, help="requests a second of one key or address (any)")
    parser.add_argument("--timeout", dest="seconds", metavar="S", type=float, help="seconds a request may take (10)")
    parser.add_argument("--max-body", dest="body", metavar="SIZE", help="the largest request (16MiB)")
    parser.add_argument("--max-pixels", dest="pixels", metavar="N", type=parse_positive, help="of an image (50000000)")
    parser.add_argument("--queue", metavar="N", type=parse_positive, help="searches inside at once (256)")
    parser.add_argument("--batch", metavar="N", type=parse_positive, help="texts that the model gets at once (32)")
    add_keys_and_logs(parser)
    parser.add_argument(
        "--allowed-host", metavar="NAME", action="append", help="answer to that name, too (*: any); may come again"
    )
    parser.add_argument(
        "--trusted-proxy", metavar="CIDR", action="append", help="believe its X-Forwarded-For; may come again"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="serve HTTPS with that certificate and its chain, in PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="the certificate's key, in PEM")
    parser.add_argument("--no-embeddings", dest="embeddings", action="store_false", help="embed no texts for clients")
    add_state(parser)


def _models(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    actions = parser.add_subparsers(metavar="ACTION", parser_class=CommandParser)
    does = "get a model, unless it is here"
    fetch = actions.add_parser("fetch", help=does, description=does[0].upper() + does[1:])
    fetch.add_argument("name", metavar="NAME", nargs="?", help="its name on the model hub; none: the default model")
    fetch.set_defaults(command="models fetch", target="models:fetch")


class Command(NamedTuple):
    help: str
    target: str
    """`module:function` in `penstock.cli.commands`, imported when it is called."""
    add_options: Callable[[argparse.ArgumentParser], None]
    long: bool = False
    """It works for long: the process is its own, so the allocator is set to give memory back."""
    composes: bool = False
    """It takes a source, and so the options of that source."""


COMMANDS = {
    "ingest": Command(
        "bring an index up to date with documents: only what changed is embedded",
        "ingest:ingest",
        _ingest,
        long=True,
        composes=True,
    ),
    "run": Command("bring an index up to date as a penstock.toml says", "ingest:run", _run, long=True),
    "search": Command("find what an index holds on a question", "search:search", _search),
    "evaluate": Command(
        "measure how well an index answers questions, compare several, or propose questions",
        "evaluate:evaluate",
        add_evaluate,
        long=True,
    ),
    "plan": Command("say what a run would do, without embedding or writing", "plan:plan", _plan, composes=True),
    "status": Command("say what the ledger knows: documents by state, chunks, last runs", "ledger:status", _status),
    "ledgers": Command("list ledgers: what each fills, and from what; remove dead ones", "ledgers:ledgers", _ledgers),
    "failures": Command(
        "list what could not be read, parsed, embedded or written, and why", "ledger:failures", _failures
    ),
    "alert": Command(
        "add, list and remove standing queries, and show what they find", "alerts:list", add_alert_command
    ),
    "approve": Command("let go what a run that follows its source holds back", "ledger:approve", add_state),
    "refresh": Command("have a run that follows its source list it now", "ledger:refresh", add_state),
    "retry": Command("try again what failed or was skipped", "ingest:retry", _retry, long=True),
    "verify": Command(
        "hold source, ledger and index against each other, by ids; or prove parts complete",
        "verify:verify",
        _verify,
        long=True,
    ),
    "documents": Command("list the documents of the ledger", "documents:documents", _documents),
    "explain": Command(
        "say why a document is in the index or not, or where a point of the index comes from",
        "explain:explain",
        _explain,
    ),
    "remove": Command(
        "take documents out of the index for good: later runs pass them over", "remove:remove", _remove, long=True
    ),
    "reindex": Command(
        "build the index anew beside itself, with another model or chunks, and switch to it",
        "reindex:reindex",
        add_reindex,
        long=True,
    ),
    "copy": Command(
        "bring all points of an index into another store, vectors and all, without a model",
        "copy:copy",
        _copy,
        long=True,
    ),
    "work": Command(
        "parse and embed documents for a run `--on` a place, on any machine that sees it",
        "work:work",
        add_work,
        long=True,
    ),
    "embed": Command(
        "embed images into Parquet parts, one share of them or all, on any number of machines",
        "shards:embed",
        _embed,
        long=True,
    ),
    "load": Command(
        "build an index of parts beside the current one, and switch to it when it is complete",
        "shards:load",
        _load,
        long=True,
    ),
    "import": Command(
        "make parts of vectors that clip-retrieval or pickling scripts have written",
        "shards:import_foreign",
        _import,
        long=True,
    ),
    "serve": Command("answer searches over HTTP, and show a page to search with", "serve:serve", _serve, long=True),
    "keys": Command("make, list and revoke keys of `penstock serve`", "keys:list", add_keys_command),
    "models": Command("list the models that are here, or fetch one", "models:models", _models),
}
