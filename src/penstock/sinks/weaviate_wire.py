"""How a Weaviate server is reached, and what its client's errors mean."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
GREETING = 10
"""Seconds that a server has for saying that it is there."""
PASSING = re.compile(
    "deadline|time(d )?out|unavailable|read-?only|not enough memory|connection|quorum|consistency|replica|shutting",
    re.IGNORECASE,
)
"""Why an object was refused that may pass later: Weaviate gives a reason and no code."""

_NAME = re.compile("[A-Za-z][_0-9A-Za-z]{0,254}")


def place(url: str) -> tuple[address.Address, str, tuple[str, int]]:
    """The address, the collection's name as Weaviate has it, and where gRPC listens."""
    at = address.parse(url, "weaviate", EXAMPLE, port=8080, options=frozenset({"tls", "grpc"}))
    if at.folder:
        raise UsageError(f"{url!r}: Weaviate is a server; write it like {EXAMPLE}")
    if at.user:
        raise UsageError(f"{url!r}: a user is not needed; the key is read from {KEY}")
    if not _NAME.fullmatch(at.names[0]):
        raise UsageError(f"{url!r}: a collection of Weaviate is named by letters, digits and _, a letter first")
    host, _, port = at.options.get("grpc", "50051").rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise UsageError(f"{url!r}: grpc= is a port, or host:port; write it like {EXAMPLE}")
    host = host.strip("[]") or at.host
    if (host, int(port)) == (at.host, at.port):
        raise UsageError(f"{url!r}: REST and gRPC cannot be at one port; write it like {EXAMPLE}")
    return at, at.names[0][0].upper() + at.names[0][1:], (host, int(port))


class _Brief(logging.Filter):
    """The client logs the objects that were refused, texts and all; which and why is in our error."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict) and "errors" in record.msg:
            record.msg = str(record.msg.get("message", ""))
        return True


_BRIEF = _Brief()


class Refused(SinkError):
    """A request that Weaviate found wrong."""


class Server:
    """A connected client, the collection it is about, and errors as the contract has them."""

    def __init__(self, url: str, given: WeaviateClient | None) -> None:
        at, self.name, grpc = place(url)
        try:
            import weaviate
            import weaviate.classes as classes
            from grpc import RpcError
            from httpx import HTTPError
            from weaviate import exceptions
        except ImportError as error:
            raise MissingExtra(f"{url} ({error.name})", "weaviate") from None
        self.url, self.classes, self._given = url, classes, given
        logging.getLogger("weaviate-client").addFilter(_BRIEF)  # once, however often it is added
        self.all_failed = exceptions.WeaviateInsertManyAllFailedError
        self._errors = (exceptions.WeaviateBaseError, HTTPError, RpcError)
        self.client = given if given is not None else self._made(weaviate, at, grpc)
        level = classes.config.ConsistencyLevel.QUORUM
        self.collection = self.client.collections.use(self.name).with_consistency_level(level)

    def _made(self, weaviate: Any, at: address.Address, grpc: tuple[str, int]) -> WeaviateClient:
        key = secret(KEY, self.url)
        init = self.classes.init
        http, other = {"host": at.host, "port": at.port}, {"host": grpc[0], "port": grpc[1]}
        for end in (http, other):
            end["host"] = f"[{end['host']}]" if ":" in str(end["host"]) else end["host"]
        params = {"http": {**http, "secure": at.tls}, "grpc": {**other, "secure": at.tls}}
        timeout = init.Timeout(init=GREETING, query=TIMEOUT, insert=TIMEOUT)
        client = weaviate.WeaviateClient(
            connection_params=weaviate.connect.ConnectionParams(**params),
            auth_client_secret=init.Auth.api_key(key) if key else None,
            additional_config=init.AdditionalConfig(timeout=timeout, trust_env=False),
            skip_init_checks=True,  # else it asks PyPI whether there is a newer client
        )
        try:
            with self.turn():
                client.connect()
        except BaseException:
            client.close()
            raise
        return client  # type: ignore[no-any-return]

    def count(self) -> int:
        with self.turn():
            return int(self.collection.aggregate.over_all(total_count=True).total_count or 0)

    def greet(self) -> None:
        """See that gRPC answers, once and in time: the client's own calls try for a minute."""
        if self._given is not None:
            return
        import grpc
        from weaviate.proto.v1 import health_weaviate_pb2 as health

        at, _, (host, port) = place(self.url)
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        secure = grpc.ssl_channel_credentials() if at.tls else None
        with grpc.secure_channel(target, secure) if secure else grpc.insecure_channel(target) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health.WeaviateHealthCheckRequest.SerializeToString,
                response_deserializer=health.WeaviateHealthCheckResponse.FromString,
            )
            try:
                check(health.WeaviateHealthCheckRequest(), timeout=GREETING)
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise SinkUnavailable(
                        f"{self.url} cannot be reached by gRPC at {target}, which grpc= tells: {line(error.details())}"
                    ) from error
                # else it answers; what it forbids is told by the first request

    def close(self) -> None:
        if self._given is None:
            self.client.close()

    @contextmanager
    def turn(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise _told(self.url, error) from error
        except (KeyError, TypeError, AttributeError) as error:  # the client reads answers without a look
            raise SinkError(f"{self.url} does not answer as Weaviate does: {type(error).__name__}: {error}") from error

    def remove(self) -> None:
        """Aliases first: Weaviate keeps one whose collection is gone."""
        with self.turn():
            if (found := self.collection.config.get(simple=True).name) != self.name:
                raise SinkError(f"{self.url} is an alias of {found}, and nothing to remove")
            if self._has_aliases:
                for alias in self.client.alias.list_all(collection=self.name):
                    self.client.alias.delete(alias_name=alias)
            self.client.collections.delete(self.name)

    def alias(self, name: str) -> bool:
        """Have `name` stand for this collection; False where the server is too old for it."""
        with self.turn():
            if not self._has_aliases:
                return False
            aliases = self.client.alias
            if not aliases.exists(alias_name=name):
                aliases.create(alias_name=name, target_collection=self.name)
            elif not aliases.update(alias_name=name, new_target_collection=self.name):
                raise SinkUnavailable(f"{self.url}: the alias {name} has gone meanwhile")
        return True

    @property
    def _has_aliases(self) -> bool:
        """Servers have them from 1.32 on."""
        major, minor = re.findall("[0-9]+", str(self.client.get_meta()["version"]))[:2]
        return (int(major), int(minor)) >= (1, 32)

    def manifest(self) -> Manifest | None:
        try:
            with self.turn():
                config = self.collection.config.get(simple=True)
        except NotThere:
            return None
        try:
            kept = json.loads(config.description or "")
        except ValueError:
            kept = None
        if not isinstance(kept, Mapping) or "penstock" not in kept:
            raise SinkError(f"{self.url} is a collection that is not Penstock's; name another one")
        return manifests.from_json(config.description or "", self.url)


class NotThere(SinkError):
    """404: of a collection, where it is asked whether there is one."""


def _told(url: str, error: BaseException) -> SinkError:
    """The client wraps errors in errors: what was at the bottom of them decides."""
    chain: list[BaseException] = []
    under: BaseException | None = error
    while under is not None and len(chain) < 10:
        chain.append(under)
        under = under.__cause__ or under.__context__
    why = line(error)
    for cause in chain:
        code, status = getattr(cause, "code", None), getattr(cause, "status_code", None)
        if callable(code) and hasattr(cause, "details"):
            return _by_grpc(url, str(code().name), line(cause.details()))
        if isinstance(status, int):
            return _by_http(url, status, why)
    kinds = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    if any("[SSL" in str(cause) for cause in chain):
        return SinkError(f"{url}: no TLS connection: {why}; tls=1 is for servers that have it")
    if kinds & {"ResponseCannotBeDecodedError", "RemoteProtocolError"}:
        return SinkError(f"{url}: what answers there is not Weaviate: {why}")
    if kinds & {"TransportError", "WeaviateConnectionError", "WeaviateTimeoutError", "WeaviateRetryError"}:
        return SinkUnavailable(f"{url} cannot be reached: {why}")
    return SinkError(f"{url}: {why}")


def _by_grpc(url: str, code: str, why: str) -> SinkError:
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return _forbidden(url, code)
    if code == "RESOURCE_EXHAUSTED" and ("larger than" in why or "bigger than" in why):
        return TooLarge(f"{url}: {why}")
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "INTERNAL"):
        return SinkUnavailable(f"{url}: {code}: {why}")
    if PASSING.search(why):
        return SinkUnavailable(f"{url}: {why}")
    return Refused(f"{url}: Weaviate refused a request: {why}")


def _by_http(url: str, status: int, why: str) -> SinkError:
    if status in (401, 403, 7, 16):  # 7 and 16 are those of gRPC, which the client gives by number
        return _forbidden(url, str(status))
    if status == 404:
        return NotThere(f"{url}: there is no such collection ({why})")
    if status == 413:
        return TooLarge(f"{url}: {why}")
    if status in (408, 429) or status >= 500:
        return SinkUnavailable(f"{url}: Weaviate answered {status}: {why}")
    return Refused(f"{url}: Weaviate refused a request: {why}")


def _forbidden(url: str, code: str) -> SinkError:
    return SinkError(f"{url}: Weaviate refuses the key ({code}): set {KEY} to one that may write here")
