"""How a Weaviate server is reached, and what its client's errors mean."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, TooLarge, UsageError
from penstock.core.schema import Manifest
from penstock.sinks import address, manifests
from penstock.sinks.store import line, secret

if TYPE_CHECKING:
    from weaviate import WeaviateClient

EXAMPLE = "weaviate://host:8080/Notes?tls=1&grpc=50051"
KEY = "WEAVIATE_API_KEY"
TIMEOUT = 60
PING_TIMEOUT = 10
"""Seconds in which a server has to answer the first call."""
PASSING = re.compile(
    "deadline|time(d )?out|unavailable|read-?only|not enough memory|connection|quorum|consistency|replica|shutting",
    re.IGNORECASE,
)
"""Reasons of objects that may pass later: Weaviate gives no code."""

_NAME = re.compile("[A-Za-z][_0-9A-Za-z]{0,254}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    address: address.Address
    name: str
    """The collection's, with the capital that Weaviate begins it with."""
    grpc: tuple[str, int]

    @property
    def grpc_target(self) -> str:
        host, port = self.grpc
        return f"{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def parse(url: str) -> Endpoint:
    at = address.parse(url, "weaviate", EXAMPLE, port=8080, options=frozenset({"tls", "grpc"}))
    if at.folder:
        raise UsageError(f"{url!r}: Weaviate is a server; write it like {EXAMPLE}")
    if at.user:
        raise UsageError(f"{url!r}: Weaviate has no users here; put the key into the environment variable {KEY}")
    if not _NAME.fullmatch(at.names[0]):
        raise UsageError(f"{url!r}: a collection of Weaviate is named by letters, digits and _, a letter first")
    host, _, port = at.options.get("grpc", "50051").rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise UsageError(f"{url!r}: grpc= is a port, or host:port; write it like {EXAMPLE}")
    host = host.strip("[]") or at.host
    if (host, int(port)) == (at.host, at.port):
        raise UsageError(f"{url!r}: REST and gRPC cannot share a port; write it like {EXAMPLE}")
    return Endpoint(at, at.names[0][0].upper() + at.names[0][1:], (host, int(port)))


class _Brief(logging.Filter):
    """Keeps the texts of refused objects out of the client's log; our error has their ids and the reasons."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict) and "errors" in record.msg:
            record.msg = str(record.msg.get("message", ""))
        return True


_BRIEF = _Brief()


class Refused(SinkError):
    """A request that Weaviate calls invalid."""


class NotFound(SinkError):
    """404: there is no such collection."""


class Server:
    """A client, the user's or one of our own, and the collection that it is used for."""

    def __init__(self, url: str, client: WeaviateClient | None) -> None:
        self._endpoint = parse(url)
        try:
            import weaviate
            import weaviate.classes as classes
            from grpc import RpcError
            from httpx import HTTPError
            from weaviate import exceptions
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "weaviate") from None
        self.url, self.name, self.classes, self._own = url, self._endpoint.name, classes, client is None
        logging.getLogger("weaviate-client").addFilter(_BRIEF)  # once, however often it is added
        self.all_failed = exceptions.WeaviateInsertManyAllFailedError
        self._errors = (exceptions.WeaviateBaseError, HTTPError, RpcError)
        self.client = client if client is not None else self._connected(weaviate)
        level = classes.config.ConsistencyLevel.QUORUM
        self.collection = self.client.collections.use(self.name).with_consistency_level(level)

    def _connected(self, weaviate: Any) -> WeaviateClient:
        key, at, (host, port) = secret(KEY, self.url), self._endpoint.address, self._endpoint.grpc
        init = self.classes.init
        params = {
            "http": {"host": _bracketed(at.host), "port": at.port, "secure": at.tls},
            "grpc": {"host": _bracketed(host), "port": port, "secure": at.tls},
        }
        timeout = init.Timeout(init=PING_TIMEOUT, query=TIMEOUT, insert=TIMEOUT)
        client = weaviate.WeaviateClient(
            connection_params=weaviate.connect.ConnectionParams(**params),
            auth_client_secret=init.Auth.api_key(key) if key else None,
            additional_config=init.AdditionalConfig(timeout=timeout, trust_env=False),
            skip_init_checks=True,  # else it asks PyPI whether there is a newer client
        )
        try:
            with self.request():
                client.connect()
        except BaseException:
            client.close()
            raise
        return client  # type: ignore[no-any-return]

    @cached_property
    def has_words(self) -> bool:
        """Whether the words of the text are indexed, as in collections of earlier versions they are not."""
        with self.request():
            properties = self.collection.config.get(simple=True).properties
        return any(one.name == "text" and one.index_searchable for one in properties)

    def count(self) -> int:
        with self.request():
            return int(self.collection.aggregate.over_all(total_count=True).total_count or 0)

    def pages(self, size: int, properties: Sequence[str]) -> Iterator[list[Any]]:
        """All objects, so many at a time, with these properties."""
        after: Any = None
        while True:
            with self.request():
                found = self.collection.query.fetch_objects(
                    limit=size, after=after, return_properties=list(properties)
                ).objects
            if not found:
                return
            yield found
            after = found[-1].uuid

    def ping(self) -> None:
        """Check that gRPC answers, once and in time: the client's own calls try for a minute."""
        if not self._own:
            return
        import grpc
        from weaviate.proto.v1 import health_weaviate_pb2 as health

        target = self._endpoint.grpc_target
        secure = grpc.ssl_channel_credentials() if self._endpoint.address.tls else None
        with grpc.secure_channel(target, secure) if secure else grpc.insecure_channel(target) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health.WeaviateHealthCheckRequest.SerializeToString,
                response_deserializer=health.WeaviateHealthCheckResponse.FromString,
            )
            try:
                check(health.WeaviateHealthCheckRequest(), timeout=PING_TIMEOUT)
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise SinkUnavailable(
                        f"{self.url} cannot be reached by gRPC at {target} (option grpc=): {line(error.details())}"
                    ) from error
                # else it answers; the first request brings out what it forbids

    def close(self) -> None:
        if self._own:
            self.client.close()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around each use of the client: its errors become ours."""
        try:
            yield
        except self._errors as error:
            raise _translated(self.url, error) from error
        except (KeyError, TypeError, AttributeError) as error:  # the client does not check answers
            raise SinkError(f"{self.url} does not answer as Weaviate does: {type(error).__name__}: {error}") from error

    def remove(self) -> None:
        """Aliases first: Weaviate keeps one whose collection is gone."""
        with self.request():
            if (found := self.collection.config.get(simple=True).name) != self.name:
                raise SinkError(f"{self.url} is an alias of {found} and was not removed; name the collection itself")
            if self._has_aliases:
                for alias in self.client.alias.list_all(collection=self.name):
                    self.client.alias.delete(alias_name=alias)
            self.client.collections.delete(self.name)

    def alias(self, name: str) -> bool:
        """False where the server is too old for aliases."""
        with self.request():
            if not self._has_aliases:
                return False
            aliases = self.client.alias
            if not aliases.exists(alias_name=name):
                aliases.create(alias_name=name, target_collection=self.name)
            elif not aliases.update(alias_name=name, new_target_collection=self.name):
                raise SinkUnavailable(f"{self.url}: the alias {name} was removed meanwhile")
        return True

    @property
    def _has_aliases(self) -> bool:
        """Servers have them from 1.32 on."""
        major, minor = re.findall("[0-9]+", str(self.client.get_meta()["version"]))[:2]
        return (int(major), int(minor)) >= (1, 32)

    def manifest(self) -> Manifest | None:
        try:
            with self.request():
                config = self.collection.config.get(simple=True)
        except NotFound:
            return None
        try:
            kept = json.loads(config.description or "")
        except ValueError:
            kept = None
        if not isinstance(kept, Mapping) or "penstock" not in kept:
            raise SinkError(f"{self.url} is a collection that is not Penstock's; name another one")
        return manifests.from_json(config.description or "", self.url)


def _translated(url: str, error: BaseException) -> SinkError:
    """The client wraps errors in errors: the innermost decides."""
    chain: list[BaseException] = []
    inner: BaseException | None = error
    while inner is not None and len(chain) < 10:
        chain.append(inner)
        inner = inner.__cause__ or inner.__context__
    reason = line(error)
    for cause in chain:
        code, status = getattr(cause, "code", None), getattr(cause, "status_code", None)
        if callable(code) and hasattr(cause, "details"):
            return _by_grpc(url, str(code().name), line(cause.details()))
        if isinstance(status, int):
            return _by_http(url, status, reason)
    kinds = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    if any("[SSL" in str(cause) for cause in chain):
        return SinkError(f"{url}: no TLS connection: {reason}; tls=1 is for servers that have it")
    if kinds & {"ResponseCannotBeDecodedError", "RemoteProtocolError"}:
        return SinkError(f"{url} does not answer as Weaviate does: {reason}")
    if kinds & {"TransportError", "WeaviateConnectionError", "WeaviateTimeoutError", "WeaviateRetryError"}:
        return SinkUnavailable(f"{url} cannot be reached: {reason}")
    return SinkError(f"{url}: {reason}")


def _by_grpc(url: str, code: str, reason: str) -> SinkError:
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return _forbidden(url, code)
    if code == "RESOURCE_EXHAUSTED" and ("larger than" in reason or "bigger than" in reason):
        return TooLarge(f"{url}: {reason}")
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "INTERNAL"):
        return SinkUnavailable(f"{url}: {code}: {reason}")
    if PASSING.search(reason):
        return SinkUnavailable(f"{url}: {reason}")
    return Refused(f"{url}: Weaviate refused a request: {reason}")


def _by_http(url: str, status: int, reason: str) -> SinkError:
    if status in (401, 403, 7, 16):  # 7 and 16 are those of gRPC, which the client gives by number
        return _forbidden(url, str(status))
    if status == 404:
        return NotFound(f"{url}: there is no such collection ({reason})")
    if status == 413:
        return TooLarge(f"{url}: {reason}")
    if status in (408, 429) or status >= 500:
        return SinkUnavailable(f"{url}: Weaviate answered {status}: {reason}")
    return Refused(f"{url}: Weaviate refused a request: {reason}")


def _forbidden(url: str, code: str) -> SinkError:
    return SinkError(f"{url}: Weaviate refuses the key ({code}): set {KEY} to one that may write here")
