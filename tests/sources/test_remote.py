"""Stores and web servers, and the secrets on the way to them."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import pytest

from penstock.core.errors import MissingExtra, SourceError, UsageError
from penstock.core.records import Item, ListingEnd, Unreadable, Upsert
from penstock.sources import from_url
from penstock.sources.files import Files
from penstock.sources.files.address import Address


def items(source: Files) -> dict[str, Item]:
    *upserts, mark = source.changes()
    assert mark == ListingEnd()
    return {change.item.uri: change.item for change in upserts if isinstance(change, Upsert)}


# ---------------------------------------------------------------- fsspec


def test_patterns_and_hidden_hold_in_a_store() -> None:
    """As they do on a disk; a folder that is left out is not listed."""
    fs = fsspec.filesystem("memory")
    for name in ("a.md", ".h.md", ".git/x.md", "x/b.md", "x/c.txt", "build/d.md"):
        fs.pipe_file(f"/remote-globs/{name}", b"x")
    source = Files("memory://remote-globs", include=["*.md"], exclude=["build/"])
    assert list(items(source)) == ["memory://remote-globs/a.md", "memory://remote-globs/x/b.md"]
    assert source.passed_over == {"hidden": 2, "excluded": 2}
    assert source.lookup("memory://remote-globs/build/d.md") is None
    assert source.lookup("memory://remote-globs/.git/x.md") is None
    with pytest.raises(SourceError, match="not within"):
        source.lookup("memory://remote-globs/../other/a.md")


def test_one_file_in_a_store_and_roots_inside_each_other() -> None:
    """A file may be a root, and what two roots hold is listed once."""
    fs = fsspec.filesystem("memory")
    for name in ("a.md", "x/b.md"):
        fs.pipe_file(f"/remote-roots/{name}", b"x")
    assert list(items(Files("memory://remote-roots/a.md"))) == ["memory://remote-roots/a.md"]
    *upserts, _ = Files("memory://remote-roots", "memory://remote-roots/x").changes()
    assert len(upserts) == 2


def test_a_store_that_says_nothing_of_versions_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size alone does not show a change."""
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/remote-mute/a.md", b"x")
    kind, ls = type(fs), type(fs).ls
    bare = [{"name": "/remote-mute/a.md", "size": 1, "type": "file"}]
    monkeypatch.setattr(kind, "ls", lambda self, path, **options: bare if "mute" in path else ls(self, path, **options))
    source = Files("memory://remote-mute")
    (first,), (second,) = items(source).values(), items(source).values()
    assert first.fingerprint != second.fingerprint


def test_s3_is_listed_by_pages(s3: Any, storage: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page is asked for when the one before was listed; folder marks and hidden keys are left out."""
    import s3fs

    s3.mkdir("paged")
    for name in [f"{i}.md" for i in range(7)] + ["sub/a b#?.md", ".git/x", "docs-not"]:
        s3.pipe_file(f"paged/docs/{name}", b"x")
    s3.call_s3("put_object", Bucket="paged", Key="docs/sub/", Body=b"")
    asked = []
    call = s3fs.S3FileSystem.call_s3

    def paged(self: Any, method: str, *args: Any, **options: Any) -> Any:
        asked.append(method)
        return call(self, method, *args, **options, MaxKeys=3)

    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", paged)
    source = Files("s3://paged/docs", storage=storage)
    changes = source.changes()
    next(changes)
    assert len(asked) == 1
    assert len(list(changes)) == 9
    assert len(asked) == 4
    assert source.passed_over == {"hidden": 1}
    odd = source.lookup("s3://paged/docs/sub/a b#?.md")
    assert odd is not None
    assert odd == items(source)["s3://paged/docs/sub/a b#?.md"]
    assert repr(odd).count("very-secret-key") == 0


def test_a_bucket_that_is_not_there(storage: dict[str, Any]) -> None:
    """SourceError, before the first change."""
    source = Files("s3://no-such-bucket-here/docs", storage=storage)
    with pytest.raises(SourceError, match="no-such-bucket-here"):
        source.open()
    with pytest.raises(SourceError):
        next(source.changes())
    with pytest.raises(SourceError):
        source.lookup("s3://no-such-bucket-here/docs/a.md")


def test_a_prefix_beside_the_one_above_it_is_listed_once(s3: Any, storage: dict[str, Any]) -> None:
    """By itself, whichever is named first."""
    s3.mkdir("nested")
    for name in ("a.md", "inner/b.md"):
        s3.pipe_file(f"nested/docs/{name}", b"x")
    roots = ("s3://nested/docs", "s3://nested/docs/inner")
    for source in (Files(*roots, storage=storage), Files(*reversed(roots), storage=storage)):
        listed = [change.item.uri for change in source.changes() if isinstance(change, Upsert)]
        assert sorted(listed) == ["s3://nested/docs/a.md", "s3://nested/docs/inner/b.md"]
        assert source.passed_over == {"excluded": 1}


def test_an_empty_bucket_is_a_complete_listing(s3: Any, storage: dict[str, Any]) -> None:
    s3.mkdir("empty-bucket")
    assert list(Files("s3://empty-bucket", storage=storage).changes()) == [ListingEnd()]


def test_a_missing_driver_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it; only when the source is opened."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    source = Files("gs://bucket")
    with pytest.raises(MissingExtra, match=r'pip install "penstock\[gs\]"'):
        source.open()


def test_a_scheme_nobody_knows() -> None:
    with pytest.raises(SourceError, match="Protocol not known"):
        Files("gopher://x/y").open()
    with pytest.raises(UsageError, match=r"unknown kind of source 'gopher'; there are: az, file, .*s3"):
        from_url("gopher://x/y")


def test_from_url_takes_paths_and_urls(tmp_path: Any) -> None:
    """One, or several of one kind; options are the constructor's."""
    (tmp_path / "a.md").write_text("x")
    assert from_url(tmp_path).name == Files(tmp_path).name == from_url([str(tmp_path)]).name
    assert from_url([tmp_path, "memory://x"], include=["*.md"]).name.startswith("file:///")
    with pytest.raises(UsageError, match="no source"):
        from_url([])


# ---------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("https://me:hunter22@h.example/a.pdf", "https://h.example/a.pdf"),
        ("https://ghp_token1@h.example/a.pdf#p3", "https://h.example/a.pdf"),
        ("https://h.example/a.pdf?X-Amz-Signature=deadbeef&x=1", "https://h.example/a.pdf"),
        ("https://h.example/a.pdf?sv=2024&sig=deadbeef", "https://h.example/a.pdf"),
        ("https://h.example/a?page=2", "https://h.example/a?page=2"),
        ("sftp://me:hunter22@h.example/docs/", "sftp://h.example/docs"),
        ("s3://bucket/what?#1.md", "s3://bucket/what?#1.md"),
        ("s3://bucket/mail@home.md", "s3://bucket/mail@home.md"),
        ("abfs://container@account/x", "abfs://container@account/x"),
    ],
)
def test_a_uri_has_no_secrets(url: str, uri: str) -> None:
    """Nor has what others say of the url."""
    address = Address(url, {"secret": "storagesecret", "endpoint_url": "http://here"})
    assert address.uri == uri
    assert repr(address) == uri
    said = address.cause(OSError(f"no {url} with storagesecret at http://here"))
    for secret in ("hunter22", "ghp_token1", "deadbeef", "storagesecret"):
        assert secret not in said
    assert "http://here" in said


def test_a_signed_url_of_a_store_is_refused() -> None:
    with pytest.raises(UsageError) as refused:
        Files("s3://bucket/a.md?X-Amz-Signature=deadbeef")
    assert "deadbeef" not in str(refused.value)


# ---------------------------------------------------------------- the web


class Handler(BaseHTTPRequestHandler):
    """A server whose pages misbehave by name."""

    etag = '"v1"'

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, head: bool) -> None:
        body = b"<h1>hello</h1>"
        path = self.path.partition("?")[0]
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/page")
            self.end_headers()
            return
        if path == "/private" and "Authorization" not in self.headers:
            self.send_error(401)
            return
        if path == "/gone" or (path == "/get-only" and head) or path == "/broken":
            self.send_error({"/gone": 410, "/get-only": 405, "/broken": 500}[path])
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        length = str(len(body) + (100 if path == "/short" else 0))
        self.send_header("Content-Length", {"/squared": "\xb2", "/endless": "9" * 5000}.get(path, length))
        if path != "/mute":
            self.send_header("ETag", self.etag)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("page", ["page", "moved", "get-only", "page?X-Amz-Signature=deadbeef"])
def test_a_page_is_a_document(site: str, page: str) -> None:
    """Redirects are followed, HEAD is not needed; the uri is the address as given, without its signature."""
    source = Files(f"{site}/{page}")
    ((uri, item),) = items(source).items()
    assert uri == f"{site}/{page}".partition("?")[0]
    assert item.media_type == "text/html"
    assert item.size == 14
    assert item.fingerprint == '14-"v1"'
    assert "deadbeef" not in repr(item) + source.name + repr(source)
    with pickle.loads(pickle.dumps(item)).open() as stream:
        assert stream.read(4) == b"<h1>"
        stream.seek(0)
        assert stream.read() == b"<h1>hello</h1>"
    assert source.lookup(uri) == item


def test_a_page_without_validators_is_read_again(site: str) -> None:
    source = Files(f"{site}/mute")
    (first,), (second,) = items(source).values(), items(source).values()
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("page", ["squared", "endless"])
def test_a_length_that_is_no_number_is_none(site: str, page: str) -> None:
    """`isdigit` is true of \xb2, and `int` refuses it, as it does thousands of digits: the listing would end."""
    (item,) = items(Files(f"{site}/{page}")).values()
    assert item.size is None
    if page == "squared":
        with item.open() as stream:
            assert stream.read() == b"<h1>hello</h1>"


def test_a_page_that_breaks_off_is_an_error(site: str) -> None:
    """Half a document is not a document."""
    (item,) = items(Files(f"{site}/short")).values()
    with pytest.raises(OSError, match="broke off after 14 of 114 bytes"):
        item.open()


def test_a_password_opens_a_page_and_shows_nowhere(site: str) -> None:
    source = Files(site.replace("://", "://me:hunter22@") + "/private")
    ((uri, item),) = items(source).items()
    assert "hunter22" not in uri + repr(item) + source.name
    with item.open() as stream:
        assert stream.read() == b"<h1>hello</h1>"


@pytest.mark.parametrize(("page", "says"), [("gone", "not found"), ("broken", "HTTP 500"), ("private", "HTTP 401")])
def test_a_page_that_cannot_be_had(site: str, page: str, says: str) -> None:
    """SourceError before the first change; a retry learns that it is gone only from 404 or 410."""
    source = Files(f"{site}/{page}?token=deadbeef")
    with pytest.raises(SourceError, match=says) as raised:
        next(source.changes())
    assert "deadbeef" not in str(raised.value)
    if page == "gone":
        assert source.lookup(f"{site}/gone") is None
    else:
        with pytest.raises(SourceError, match=says):
            source.lookup(f"{site}/{page}")


def test_no_server_is_no_listing() -> None:
    """Nor does the error show the address's secrets."""
    source = Files("http://me:hunter22@127.0.0.1:9/a.md")
    with pytest.raises(SourceError, match="refused") as raised:
        source.open()
    assert "hunter22" not in str(raised.value)


def test_a_page_that_fails_after_the_check_takes_the_mark_away(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several roots the others are listed."""
    fsspec.filesystem("memory").pipe_file("/remote-web/a.md", b"x")
    source = Files("memory://remote-web", f"{site}/page")
    changes = source.changes()
    assert isinstance(next(changes), Upsert)

    def refuse(address: Address, method: str) -> Any:
        raise OSError("connection reset")

    monkeypatch.setattr("penstock.sources.files.web._ask", refuse)
    (last,) = changes
    assert isinstance(last, Unreadable)
    assert last.listing
