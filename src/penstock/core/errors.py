"""The errors of Penstock, all of them:

    PenstockError
      UsageError            an invalid option, url or argument
        MissingExtra        an optional driver is not installed; the message has the install line
        QueryMismatch       a query that the model of an index cannot take
      SpaceMismatch         the index holds vectors of another model or chunking
      OwnershipError        the index was filled by another ledger
      LockedError           another run holds the ledger
      LedgerError           the ledger's file cannot be read or written: a full disk, a damaged file
      MassDeletion          a run would delete most of the index
      ModelError            a model cannot be found, fetched or read
      SourceError           a source cannot be listed or read
      ParseError            a document cannot be parsed
        Unsupported         ... because nothing here reads its type
        LimitExceeded       ... because it took too much time or memory
        ParserDied          ... because the process of its parser died
      EmbedError            chunks cannot be embedded
      Transient             a source, model or store is away or busy: the same call may succeed later
      SinkError             a store refused or failed
        SinkUnavailable     ... for now: a Transient as well
        SinkInUse           ... as another process has it open, and it serves one at a time: a LockedError as well
        TooLarge            ... the batch as a whole: smaller ones may pass
        Rejected            ... some points, for good; `.reasons` maps their ids to causes
      StageError            anything else, with the stage and the item it befell

Failures of a document are data (they go to the ledger); errors end a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class PenstockError(Exception):
    """Anything Penstock raises on purpose."""


class UsageError(PenstockError): ...


class MissingExtra(UsageError):
    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs an optional driver: pip install "penstock[{extra}]"')
        self.extra = extra

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args, self.__dict__)


class QueryMismatch(UsageError): ...


class SpaceMismatch(PenstockError): ...


class OwnershipError(PenstockError): ...


class LockedError(PenstockError): ...


class LedgerError(PenstockError): ...


class MassDeletion(PenstockError): ...


class ModelError(PenstockError): ...


class SourceError(PenstockError): ...


class Vanished(SourceError):
    """What was listed is not there any more when it is to be read."""


class ParseError(PenstockError): ...


class Unsupported(ParseError): ...


class LimitExceeded(ParseError): ...


class ParserDied(ParseError): ...


class EmbedError(PenstockError): ...


class SinkError(PenstockError): ...


class Transient(PenstockError):
    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        """`retry_after`: the seconds after which the service wants to be asked again, where it says so."""
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args, self.__dict__)


class SinkUnavailable(SinkError, Transient): ...


class SinkInUse(SinkError, LockedError): ...


class TooLarge(SinkError): ...


class Rejected(SinkError):
    def __init__(self, reasons: Mapping[str, str]) -> None:
        some = "; ".join(f"{id}: {why}" for id, why in list(reasons.items())[:3])
        super().__init__(f"{len(reasons)} points refused ({some})")
        self.reasons = dict(reasons)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reasons,)


class StageError(PenstockError):
    def __init__(self, stage: str, item: str | None, cause: BaseException) -> None:
        where = f" at {item}" if item else ""
        super().__init__(f"{stage}{where}: {type(cause).__name__}: {cause}")
        self.stage, self.item = stage, item
        self.__cause__ = cause

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args, self.__dict__)  # a cause may be anything, and is in the message


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Have errors begin with what they are about: an index, a line of a file."""
    try:
        yield
    except PenstockError as error:
        if what not in str(error):
            error.args = (f"{what}: {error}",)
        raise


def _restore(cls: type[PenstockError], args: tuple[object, ...], state: dict[str, object]) -> PenstockError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error
