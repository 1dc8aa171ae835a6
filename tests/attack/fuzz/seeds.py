"""Makes the seeds of the targets: `python -m tests.attack.fuzz.seeds`. Inputs that once failed are beside them."""

from __future__ import annotations

import base64
import io
import json
import pickle
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.attack.fuzz.target import SEEDS

ROOT = Path(__file__).parents[3]
DOCUMENTS = ROOT / "tests" / "data" / "documents"


def main() -> None:
    for name, inputs in _all().items():
        folder = SEEDS / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs):
            raw = data if isinstance(data, bytes) else data.encode() if isinstance(data, str) else _json(data)
            (folder / f"seed-{number:02}").write_bytes(raw)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _all() -> dict[str, list[Any]]:
    return {**_documents(), **_texts(), **_images(), **_queries(), **_stored(), **_others(), **_models()}


def _documents() -> dict[str, list[Any]]:
    def of(*names: str) -> list[Any]:
        return [(DOCUMENTS / name).read_bytes() for name in names]

    return {
        "pdf": of("pumps.pdf", "scan.pdf", "encrypted.pdf"),
        "docx": of("pumps.docx"),
        "pptx": of("slides.pptx"),
        "xlsx": of("turbines.xlsx"),
        "xls": [_xls()],
        "odt": of("dams.odt", "slides.odp"),
        "ods": of("flows.ods"),
        "epub": of("weir.epub"),
        "mail": [*of("gate.eml"), _MAIL],
        "outlook": of("gate.msg"),
        "rtf": [*of("rich.rtf"), rb"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0 A;}}\u8364?\'e4\par{\*\x y}\bin3 abc}"],
    }


_MAIL = b"""From: =?utf-8?q?J=C3=B6?= <a@b.c>
To: x
Subject: =?utf-8?b?w6TDtsO8?= and more
Date: Mon, 1 Jan 2024 00:00:00 +0000
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="b"

--b
Content-Type: multipart/alternative; boundary="c"

--c
Content-Type: text/plain; charset="iso-8859-1"
Content-Transfer-Encoding: quoted-printable

Caf=E9 text
--c
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: base64

PGgxPlRpdGxlPC9oMT48cD50ZXh0PC9wPg==
--c--
--b
Content-Type: application/pdf; name*=utf-8''%e2%82%ac.pdf
Content-Disposition: attachment; filename*0="a"; filename*1="b.pdf"
Content-Transfer-Encoding: x-uuencode

begin 644 a
#86)C
`
end
--b--
"""


def _xls() -> bytes:
    """The smallest workbook of Excel 2.1: one sheet, a text and a number."""

    def record(kind: int, data: bytes) -> bytes:
        return kind.to_bytes(2, "little") + len(data).to_bytes(2, "little") + data

    cell = bytes([0, 0, 0, 0, 0, 0, 0])
    return b"".join(
        (
            record(0x0009, bytes([2, 0, 16, 0])),
            record(0x0004, cell + bytes([4]) + b"head"),
            record(0x0003, bytes([1, 0, 0, 0, 0, 0, 0]) + bytes(6) + b"\xf0\x3f"),
            record(0x000A, b""),
        )
    )


def _texts() -> dict[str, list[Any]]:
    html = (
        '<!doctype html><html><head><meta charset="utf-8"><title>T</title></head><body><nav>n</nav><main><h1>A</h1>'
        "<p>text &amp; m</p><ul><li>a<li>b</ul><table><tr><td>1</td></tr></table><pre>x\ny</pre></main></body></html>"
    )
    xml = (
        '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE a><a x="1" xmlns:n="u"><n:b id="1">t<i>w</i>u</n:b>'
        "<row><c>1</c><d>2</d></row><row><c>3</c><d>4</d></row><![CDATA[z]]><!-- c --></a>"
    )
    return {
        "html": [html, html.replace("utf-8", "hex"), html.replace("utf-8", "idna"), "<p>" + "<b>" * 300 + "x"],
        "xml": [
            xml,
            xml.replace("utf-8", "latin-1"),
            '<svg width="1"><path d="M0"/><text>t</text></svg>',
            "<a>{{ x }}",
        ],
        "markdown": [
            "---\ntitle: T\n---\n# A\n\ntext\n\nB\n===\n\n```py\n# no\n```\n~~~\nx\n~~~\n## C ##\n\n| a | b |\n"
        ],
        "csv": ['a;b;c\n1;"x ""y""\nz";3\n4;5;6\n', "name,n\n,\nx,1\ny,2\n", "a\tb\n1\t2\n"],
        "json": [
            '{"a": {"b": [1, 2, {"c": null}]}, "rows": [{"x": 1, "y": "z"}, {"x": 2}]}',
            '[{"a": 1.5e3}, {"a": true}]',
            '{"a": 1, // comment\n "b": 2}',
        ],
        "jsonl": ['{"a": 1}\n{"b": {"c": [1, {"d": 2}]}}\n[1]\n', '{"a":\n{"b"}\n'],
        "text": [
            "plain\ntext\n",
            "Grüße\n".encode("cp1252") * 5,
            "wide".encode("utf-16"),
            b"a\0b" + b"log line\n" * 300,
        ],
        "charset": [f"{name}\nGrüße, text und mehr\n" for name in ("utf-7", "idna", "punycode", "hz", "undefined")],
        "detect": [bytes([n]) + data for n, data in enumerate((b"text", html.encode(), xml.encode(), b"{\\rtf1 x}"))],
        "caption": ['{"caption": "a", "width": 3, "tags": ["x", {"y": 1}]}', "text of a caption"],
    }


def _images() -> dict[str, list[Any]]:
    from PIL import Image

    made = []
    for kind, mode in (("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P")):
        made.append((kind, mode, {}))
    made += [("WEBP", "RGB", {}), ("BMP", "RGB", {}), ("TIFF", "F", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"})]
    made += [("JPEG", "RGB", {"progressive": True})]
    images = []
    for kind, mode, options in made:
        exif = Image.Exif()
        exif[0x0112] = 6
        out = io.BytesIO()
        how = {"exif": exif.tobytes()} if kind in ("JPEG", "WEBP", "PNG") else {}
        Image.new(mode, (12, 9)).save(out, kind, **how, **options)
        images.append(out.getvalue())
    return {"image": images}


def _queries() -> dict[str, list[Any]]:
    filters: list[Any] = [
        {"a": 1, "b": {"$ne": "x"}},
        {"$or": [{"page": [1, 2]}, {"$not": {"ordinal": {"$lt": 5, "$gte": 1}}}]},
        {"a.b.c": {"$exists": True}, "d": {"$all": [1, "1"]}, "b": {"$prefix": "x"}},
        {"type": "image", "uri": {"$prefix": "file:///docs/1"}},
        {"$and": [{"type": ["text", "image"]}, {"metadata.id": {"$in": ["x", 1, True, 1.5]}}, {"c": {"$nin": [True]}}]},
        {"b": {"$gt": "2024-01-01", "$lte": "￿"}, "id": {"$in": []}, "text": {"$prefix": "￿"}},
    ]
    request = {"text": "a", "k": 3, "where": filters[1], "types": ["text"], "distinct": True, "threshold": 0.5}
    more = {"like": ["a"], "minus": ["b"], "vector": [0.1], "image": "data:image/png;base64,aGk=", "facets": ["a.b"]}
    return {
        "filter": filters,
        "conditions": [
            "a=1\x1fb!=x",
            "page>=2\x1furi^=file:",
            'c=true\x1f{"a": {"$in": [1]}}',
            "b=[1, 2]",
            "type!=image",
        ],
        "cursor": [{"at": 20, "of": "0" * 24}, {"at": -1, "of": None}, "\0own", "\0eyJhdCI6IDIwfQ"],
        "request": [request, {**request, **more}, {"names": ["a", "type"], "where": filters[0], "limit": 3}],
        "picture": [
            *(
                "file://ROOT/a.png",
                "file://ROOT/../secret.png",
                "file://ROOT/link.png",
                "file://localhost/ROOT/x.zip/a.png",
            ),
            *(
                "https://x.example/a.png",
                "file://ROOT/a.parquet/1",
                "file:///etc/passwd#x",
                "file://ROOT/%2e%2e/secret.png",
            ),
        ],
    }


def _stored() -> dict[str, list[Any]]:
    spec = {"model": "m", "dim": 8, "fingerprint": "f", "kind": "Dense", "metric": "cosine", "dtype": "float32"}
    schema = {"vectors": {"vector": spec}, "chunking": "256 tokens", "filterable": True}
    manifest = {"penstock": 2, "schema": schema, "owners": {"": "o"}, "current": 1, "former": 0}
    old = {"space": {**spec, "chunking": "c"}, "owner": "o"}
    row = {"id": "0" * 32, "uri": "file:///a.png", "content_hash": None, "width": 1, "height": 2, "text": "t"}
    table = {
        "types": {
            **dict.fromkeys(("id", "uri", "content_hash"), "string"),
            "width": "int32",
            "height": "int32",
            "text": "string",
            "metadata": "string",
            "vector": "4",
            "model": "string",
        },
        "nullable": ["content_hash", "width", "height"],
        "rows": [{**row, "metadata": "{}", "vector": [0.5, 1, 2, 3], "model": "f"}],
        "penstock.part": {"piece": 1, "space": spec},
        "penstock.account": [
            ["file:///b.png", "failed", "why", True],
            ["file:///c.png", "duplicate", "file:///a.png", True],
        ],
    }
    folder = _parts()
    part = next(data for name, data in folder.items() if name.endswith(".parquet"))
    return {
        **_foreign(),
        "manifest": [manifest, old, {**manifest, "schema": {"vectors": {"a": spec, "b": spec}, "chunking": ""}}],
        "part": [part],
        "table": [table],
        "shards": [_zipped(folder)],
        "ledger": [
            [],
            [["UPDATE documents SET state = ?, fingerprint = ?, chunks = ?", 5, [1], "x"]],
            [["UPDATE runs SET report = ?, started = ?", "[1]", "y"], ["DROP TABLE failures"]],
            [["PRAGMA user_version = 7"], ["UPDATE meta SET value = ? WHERE key = 'settings'", "{"]],
            [["UPDATE chunks SET id = ?, digest = ?", "text", "x"], ["UPDATE removals SET uri = ?", [1]]],
            [{"at": 100, "bytes": base64.b64encode(b"\xff" * 40).decode()}, {"at": 8192, "bytes": "AAAA"}],
            [["UPDATE sqlite_master SET sql = 'x'"], {"at": 30000, "bytes": "", "end": True}],
            [["UPDATE failures SET cause = ?, attempts = ?, last = ?", [0], "z", None]],
        ],
        "progress": ['{"at": NOW, "documents": 3}', '{"at": "x"}', "[1]"],
        "toml": [
            'source = "docs"\ninto = "memory://x"\nchunk = "200 characters"\nmemory = "256MiB"\n[metadata]\na = 1\n',
            'source = ["a", "b"]\ninto = ["memory://x", "memory://y"]\nmodel = "h"\nexclude = ["*.y"]\nworkers = 2\n',
        ],
    }


def _foreign() -> dict[str, list[Any]]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(**columns: Any) -> bytes:
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out)
        return out.getvalue()

    vectors = np.ones((2, 4), np.float32)
    array = io.BytesIO()
    np.save(array, vectors.astype(np.float16))
    pickles = [pickle.dumps(("aGk=", vectors[0])), pickle.dumps(vectors[1], 2), pickle.dumps([1.5, "x", {"a": b"y"}])]
    retrieved = {
        "img_emb/img_emb_0.npy": array.getvalue(),
        "metadata/metadata_0.parquet": table(url=["a", "b"], n=[1, 2]),
    }
    lists = table(uri=["a", "b"], vector=[[1.0, 2.0], [3.0, 4.0]], caption=["x", None])
    return {
        "foreign": [
            *(_zipped(retrieved), _zipped({"a.parquet": table(idx=[1, 2, 3], output=pickles)})),
            _zipped({"a.parquet": lists}),
        ],
        "pickle": pickles,
    }


def _parts() -> Mapping[str, bytes]:
    from tests.shards.world import embedded, pictures

    with tempfile.TemporaryDirectory() as temporary:
        source = pictures(Path(temporary) / "in", 3)
        (source / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        embedded(source, Path(temporary) / "out")
        out = Path(temporary) / "out"
        return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def _zipped(content: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, kind)
    return out.getvalue()


def _others() -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = {"a/b.txt": b"text\n" * 20, "a/b.json": b"{}", "a/b.png": b"\x89PNG", "c": b"", "ü.md": b"# x"}
    tars = []
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
            for name, data in {**files, "n" * (90 if kind == tarfile.USTAR_FORMAT else 120): b"long"}.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        tars.append(out.getvalue()[:-5000] if kind == tarfile.GNU_FORMAT else out.getvalue())
    table = pa.table(
        {
            "image": [b"\x89PNG", None, b"x"],
            "caption": ["a", "b", None],
            "id": ["1", "2", "2"],
            "n": [1.5, float("nan"), 2],
        }
    )
    rows = io.BytesIO()
    pq.write_table(table, rows)
    blocks = [
        {
            "text": "A block of text. " * 30,
            "page": 1,
            "headings": ["A", "B"],
            "metadata": {"a": 1, "b": [1, {"c": None}]},
        },
        {"text": "unit", "unit": True, "metadata": {"row": 2}},
        {"image": base64.b64encode(b"png").decode(), "text": "caption", "page": 3},
    ]
    return {
        "wire": [
            [*blocks, {"gap": "why", "page": 3}, {"done": 100}],
            [{"error": "LimitExceeded", "cause": "x"}],
            ["\0\0\0\2{}"],
        ],
        "tar": tars,
        "zip": [_zipped(files), _zipped(files, zipfile.ZIP_DEFLATED)],
        "rows": [rows.getvalue()],
        "list": [
            *(b"0https://a.example/a.png\n# no\nhttps://[::1]/b\n", b"1url,caption\nhttps://a.example/a,x\n"),
            *(b'3{"url": "https://a.example/a", "n": 1}\n{"url": "https://b.example/"}\n', b"4" + rows.getvalue()),
        ],
        "blocks": [blocks],
    }


def _models() -> dict[str, list[Any]]:
    sys.path.insert(0, str(ROOT / "scripts"))
    import make_checkpoints
    import make_cross_encoders

    clip = ROOT / "tests" / "data" / "shapes-clip"
    names = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
    seeing = {name: json.loads((clip / name).read_text()) for name in names}
    first = next(iter(make_checkpoints.RECIPES))
    several = []
    with tempfile.TemporaryDirectory() as temporary:
        for maker, name in (
            (make_checkpoints, first),
            (make_cross_encoders, "modernbert"),
            (make_cross_encoders, "qwen3"),
        ):
            folder = maker.make(name, Path(temporary))
            files = sorted(folder.rglob("*.json"))
            several.append({str(path.relative_to(folder)): json.loads(path.read_text()) for path in files})
    return {"checkpoint": [seeing, *several], **_small_models()}


def _small_models() -> dict[str, list[Any]]:
    vocabulary = {word: n for n, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "##b"))}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": vocabulary[word], "content": word, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
        }
        | {"lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
        | {"max_input_chars_per_word": 100, "vocab": vocabulary},
    }
    hidden, words, places = 4, len(vocabulary), 16
    shapes: dict[str, list[int]] = {
        "embeddings.word_embeddings.weight": [words, hidden],
        "embeddings.position_embeddings.weight": [places, hidden],
        "embeddings.token_type_embeddings.weight": [2, hidden],
        "embeddings.LayerNorm.weight": [hidden],
        "embeddings.LayerNorm.bias": [hidden],
    }
    layer = "encoder.layer.0."
    for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
        shapes |= {f"{layer}{name}.weight": [hidden, hidden], f"{layer}{name}.bias": [hidden]}
    shapes |= {f"{layer}intermediate.dense.weight": [8, hidden], f"{layer}intermediate.dense.bias": [8]}
    shapes |= {f"{layer}output.dense.weight": [hidden, 8], f"{layer}output.dense.bias": [hidden]}
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes |= {f"{layer}{name}.weight": [hidden], f"{layer}{name}.bias": [hidden]}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    config = {"model_type": "bert", "hidden_size": hidden, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"max_position_embeddings": places, "vocab_size": words, "intermediate_size": 8, "hidden_act": "gelu"}
    whole = {"config.json": config, "tokenizer.json": tokenizer, "weights": header, "bytes": at}
    return {"tokenizer": [tokenizer], "weights": [whole]}


if __name__ == "__main__":
    main()
