"""All targets, by name."""

from __future__ import annotations

from tests.attack.fuzz import documents, hostile, models, queries, stored
from tests.attack.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for module in (documents, queries, stored, hostile, models) for target in module.TARGETS
}
