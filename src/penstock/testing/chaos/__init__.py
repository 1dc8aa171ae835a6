"""Kills an ingest with SIGKILL, again and again, and checks that the index ends up as if nothing had happened.

    python -m penstock.testing.chaos --kills 200 --sink lance --seed 7

`child` ingests a corpus and is killed at every moment of a commit in turn, at random moments, and by the clock. The
`parent` edits the corpus between runs, and sometimes between a kill and the restart. The index of each complete run is
compared with that of an undisturbed run, and a log shows whether an acknowledged chunk was embedded again.
"""

from penstock.testing.chaos.child import check_log, note
from penstock.testing.chaos.corpus import Lines
from penstock.testing.chaos.journal import Broken, Contents, JournalSink, contents
from penstock.testing.chaos.parent import MOMENTS, Chaos, Outcome

__all__ = [
    "MOMENTS",
    "Broken",
    "Chaos",
    "Contents",
    "JournalSink",
    "Lines",
    "Outcome",
    "check_log",
    "contents",
    "note",
]
