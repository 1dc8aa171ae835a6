"""The project's own files agree: package metadata, workflow, hooks and the documents for contributors."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

import penstock

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    source = (ROOT / "src" / "penstock" / "__init__.py").read_text()
    assert re.findall(r'^__version__ = "(.*)"$', source, re.MULTILINE) == [penstock.__version__]


def test_package_is_typed() -> None:
    assert (ROOT / "src" / "penstock" / "py.typed").exists()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_workflow_runs_every_python_of_the_classifiers() -> None:
    classified = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert f">={classified[0]}" == PROJECT["requires-python"]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    matrices = re.findall(r"python: \[(.*)\]", workflow)
    assert matrices
    assert all(re.findall(r'"(.*?)"', matrix) == classified for matrix in matrices)
    for script in re.findall(r"run: (\S+)", workflow):
        assert os.access(ROOT / script, os.X_OK), script


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "SECURITY.md", "docs/threat-model.md"])
def test_paths_in_the_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    paths = re.findall(r"(?<![\w/.])((?:tests|scripts|src|benchmarks|docs|\.ci)/[\w./-]*\w)", text)
    paths += re.findall(r"\]\(([^)#:]+)\)", text)
    assert paths
    missing = [path for path in paths if not (ROOT / path).exists() and "results" not in path]
    assert not missing


def test_folders_of_the_layout_exist() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## Layout")[1].split("\n\n")[1]
    names = [name for row in table.splitlines() for name in re.findall(r"`([\w.]+)`", row.split("|")[1])]
    package = ROOT / "src" / "penstock"
    assert {name for name in names if not (package / name).exists()} == set()
    folders = {path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(names)


def test_hooks_need_no_network() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"repo: (.*)", hooks) == ["local"]
    assert set(re.findall(r"language: (.*)", hooks)) == {"system"}
