"""Whose index it is: an index, or each namespace of it, is filled by one ledger, which its manifest names."""

from __future__ import annotations

from penstock.core.errors import OwnershipError, UsageError
from penstock.core.schema import IndexSchema, Manifest
from penstock.engine.identity import id_prefix
from penstock.jobs.components import Components
from penstock.jobs.ledgers import holder
from penstock.sinks import manifests


def owns(
    components: Components, schema: IndexSchema, held: Manifest, mine: str, *, url: str = "", adopt: bool = False
) -> bool:
    """Whether the index is already that of `mine`, a ledger's id. Raises where these components must not fill it."""
    url, name = url or components.sink.url, components.namespace
    manifests.check_schema(held.schema, schema, url)
    if name and "" in held.owners:
        raise OwnershipError(f"{url} is filled by one pipeline without a namespace: choose another url")
    if not name and held.owners and "" not in held.owners:
        names = ", ".join(sorted(held.owners))
        raise OwnershipError(f"{url} is shared by the namespaces {names}: name this one's with --namespace")
    for other in held.owners.keys() - {name}:
        if id_prefix(other) == id_prefix(name):
            raise UsageError(f"the namespaces {name!r} and {other!r} collide by chance: rename one of them")
    owner = held.owners.get(name)
    if owner is not None and owner != mine and not adopt:
        known = holder(components.state.parent, owner)
        other_ledger = f"the ledger {known}" if known else f"another ledger than {components.ledger.path} (id {owner})"
        use = f"--state {known}" if known else "--state"
        raise OwnershipError(
            f"{url} is filled by {other_ledger}. Use that one ({use}); or take the index over with --adopt: its points"
            " are then read back, compared with the source, and brought up to date"
        )
    return owner == mine


def check_capabilities(components: Components, schema: IndexSchema) -> None:
    """Raise UsageError where the sink cannot hold what the model and the chunker make."""
    sink = components.sink
    manifests.supported(schema, sink)
    most, longest = sink.max_text, components.longest()
    if most is not None and longest is not None and longest > most:
        raise UsageError(
            f"{sink.url} takes texts of at most {most:,} bytes; a chunk of {schema.chunking} may have {longest:,}:"
            " choose smaller ones (--chunk)"
        )
