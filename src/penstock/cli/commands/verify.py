"""`penstock verify`: of an index, or of a folder of parts."""

from __future__ import annotations

import argparse

from penstock import shards
from penstock.cli.commands.runs import exit_status, log_end, log_report, show_report, shown
from penstock.cli.ledgers import ledger_path, state_option
from penstock.cli.output.results import inputs_row, rows_text, say, verification_rows
from penstock.cli.output.streams import INCOMPLETE, OK, emit
from penstock.core.errors import UsageError
from penstock.display.progress import counting
from penstock.display.text import clean
from penstock.jobs.verify import Verification
from penstock.pipeline import Pipeline


def verify(args: argparse.Namespace) -> int:
    if args.parts:
        unattended = args.stop_ok or args.log_format != "text"
        if args.repair or args.sample or args.state or args.allow_mass_delete or unattended:
            raise UsageError("verify PARTS takes no other option: a folder of parts is always verified whole")
        return _verify_parts(args)
    pipeline = Pipeline.from_state(ledger_path(args))
    with shown(pipeline, args) as progress:
        verification = pipeline.verify(
            repair=args.repair, sample=args.sample, progress=progress, allow_mass_delete=args.allow_mass_delete
        )
    repaired = verification.repaired
    status = exit_status(repaired is not None and repaired.status == "stopped", verification.ok, progress)
    if args.json:
        emit({"event": "verification", **verification.to_json()})
    if args.quiet:
        return status
    if args.log_format == "json":
        if repaired is not None:
            log_report(repaired, pipeline)
        log_end(status, verification.ok, verification.to_json())
    elif not args.json:
        if repaired is not None:
            show_report(repaired, pipeline)
        say(rows_text(verification_rows(verification)))
        if conclusion := _conclusion(verification, state_option(pipeline.ledger.path)):
            say(conclusion)
    return status


def _conclusion(verification: Verification, again: str) -> str:
    if verification.ok:
        return "source, ledger and index agree"
    if not verification.complete:
        return "the source could not be listed whole"
    if verification.failing - verification.accepted == sum(number for _, number in verification.differences):
        return f"`penstock failures{again}` says why"
    if verification.repaired is None:
        return f"they differ: `penstock verify --repair{again}` mends what can be mended"
    return ""


def _verify_parts(args: argparse.Namespace) -> int:
    with counting(clean(args.parts), quiet=args.quiet or args.json) as update:
        proof = shards.verify(args.parts, lambda done: update(done.rows, done.total))
    if args.json:
        emit({"event": "verification", **proof.to_json()})
    elif not args.quiet:
        rows = [("shards", f"{proof.finished:,} of {proof.shards:,} finished"), inputs_row(proof.counts)]
        rows.append(("parts", f"{proof.parts:,} with {proof.rows:,} of {proof.total:,} rows"))
        if proof.alike:
            rows.append(("alike", f"{proof.alike:,} images that another shard has as well"))
        rows += [("wrong", clean(trouble)) for trouble in proof.troubles]
        rows += [("failed", clean(f"{uri}: {why}")) for uri, why in proof.failures]
        say(rows_text(rows))
        say("the parts are complete" if proof.ok else "the parts are not complete")
    return OK if proof.ok else INCOMPLETE
