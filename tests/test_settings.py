"""The options of a pipeline: declared once, checked wherever they are written, remembered by the ledger."""

from __future__ import annotations

import inspect
import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.cli.arguments import make_parser
from penstock.cli.main import main
from penstock.cli.options import pipeline_options
from penstock.core.errors import UsageError
from penstock.core.schema import parse_named
from penstock.jobs.places import relative_to
from penstock.ledger import Ledger
from penstock.pipeline import Pipeline
from penstock.settings import MEMORY, OPTIONS, Settings
from penstock.sources.files import Files
from penstock.sources.options import FILES

V1 = Path(__file__).parent / "data" / "versions" / "v1"
WORDS = {"source": "docs", "into": "memory://x"}


def ones(texts: list[str]) -> Any:
    return np.ones((len(texts), 3))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    return tmp_path


def toml(text: str) -> Pipeline:
    Path("penstock.toml").write_text(f'into = "memory://x"\n{text}\n')
    return Pipeline.from_toml("penstock.toml")


# ---------------------------------------------------------------- once


def test_a_pipelines_keywords_are_the_options() -> None:
    """By their names and defaults; only `parsers` is no setting, as it cannot be written down."""
    parameters = inspect.signature(Pipeline).parameters
    named = {name: each for name, each in parameters.items() if each.kind is not inspect.Parameter.VAR_KEYWORD}
    assert named.keys() == {*OPTIONS, "parsers"}
    for name, option in OPTIONS.items():
        if name not in ("source", "into"):
            assert named[name].default == option.default


def test_commands_have_every_option() -> None:
    """With its help; of a source those that it declares as flags."""
    commands = next(action.choices for action in make_parser()._actions if isinstance(action.choices, dict))
    actions = {action.dest: action for action in commands["ingest"]._actions}
    for name, option in pipeline_options().items():
        assert str(actions[name].help).startswith(option.help)
    assert {"include", "exclude", "hidden"} == pipeline_options().keys() - OPTIONS.keys()
    assert Files.options is FILES


def test_settings_are_what_a_ledger_remembers() -> None:
    settings = Settings.from_mapping(WORDS | {"include": ["*.md"], "workers": 3, "chunk": 256}, "here")
    assert settings == Settings(("docs",), ("memory://x",), None, "256", MEMORY, 3, options={"include": ("*.md",)})
    assert Settings.from_mapping(json.loads(settings.to_json()), "ledger") == settings
    assert Settings.from_mapping(settings.to_mapping(), "ledger") == settings


# ---------------------------------------------------------------- wrong ones


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memroy": "1GiB"}, r"unknown option 'memroy' of file://: did you mean 'memory'\? It takes include, .*source"),
        ({"incldue": ["*.md"]}, "unknown option 'incldue' of file://: did you mean 'include'"),
        ({"qqq": 1}, "unknown option 'qqq' of file://: it takes include"),
        ({"caption": "alt"}, "unknown option 'caption' of file://.*It is an option of parquet://"),
        ({"source": 1}, "invalid source 1: expected a path or url, or several"),
        ({"source": [1]}, r"invalid source \[1\]: expected a path or url, or several"),
        ({"source": []}, "source must be given"),
        ({"into": 1}, "invalid into 1: expected a url such as lance://./index, or several"),
        ({"memory": "x"}, "invalid memory 'x': expected a size such as 512MiB"),
        ({"memory": True}, "invalid memory True: expected a size such as 512MiB"),
        ({"memory": "1KiB"}, "invalid memory '1KiB': expected at least 8MiB"),
        ({"chunk": 1.5}, 'invalid chunk 1.5: expected a size such as "256 tokens"'),
        ({"chunk": "abc"}, "invalid chunk 'abc': expected a size such as '256 tokens'"),
        ({"workers": "4"}, "invalid workers '4': expected a whole number"),
        ({"workers": 0}, "invalid workers 0: expected at least 1"),
        ({"hidden": 1}, "invalid hidden 1: expected true or false"),
        ({"include": [1]}, r"invalid include \[1\]: expected a list of texts"),
        ({"namespace": 1}, "invalid namespace 1: expected a text"),
        ({"model": 1}, "invalid model 1: expected the name or folder of a model, or a mapping of names to models"),
        ({"model": {"a": 1}}, "invalid model 1: expected the name or folder of a model"),
        ({"options": 1}, "invalid options 1: expected a table"),
        ({"include": ["a"], "options": {"include": ["b"]}}, "the option 'include' is there twice"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_with_its_place(options: dict[str, Any], message: str) -> None:
    """The option, what was expected or meant, and where it was written."""
    with pytest.raises(UsageError, match=f"^x: {message}"):
        Settings.from_mapping(WORDS | options, "x")


def test_settings_that_are_missing_are_named() -> None:
    with pytest.raises(UsageError, match="x: source and into must be given"):
        Settings.from_mapping({"memory": "1GiB"}, "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('source = "docs"\ncolour = "red"', "unknown option 'colour'"),
        ("source = 1", "invalid source 1: expected"),
        ('source = "docs"\n[options]\nincldue = ["a"]', "unknown option 'incldue' of file://: did you mean 'include'"),
    ],
)
def test_a_toml_file_is_named(here: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"^penstock\.toml: {message}"):
        toml(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memroy": "1GiB"}, "unknown option 'memroy' of file://: did you mean 'memory'"),
        ({"workers": 0}, "invalid workers 0"),
        ({"memory": "x"}, "invalid memory 'x': expected a size such as 512MiB"),
        ({"into": 5}, "invalid into 5"),
        ({"into": ["memory://x", 5]}, "invalid into"),
    ],
    ids=str,
)
def test_a_keyword_is_checked_as_well(here: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^Pipeline: {message}"):
        Pipeline(**{"source": "docs", "into": "memory://x", "model": ones} | options)


def test_a_source_of_ones_own_takes_no_options() -> None:
    with pytest.raises(UsageError, match="include is an option of paths and urls: give it to your own source instead"):
        Pipeline(Files("/docs"), into="memory://x", model=ones, include=["*.md"])
    with pytest.raises(UsageError, match="unknown option 'memroy' of a pipeline: did you mean 'memory'"):
        Pipeline(Files("/docs"), into="memory://x", model=ones, memroy=1)


# ---------------------------------------------------------------- where they are kept


def test_options_of_a_source_stand_beside_the_others_or_in_a_table(here: Path) -> None:
    flat = toml('source = "docs"\ninclude = "*.md"\nhidden = true')
    table = toml('source = "docs"\n[options]\ninclude = ["*.md"]\nhidden = true')
    python = Pipeline("docs", into="memory://x", include=["*.md"], hidden=True)
    assert flat.source.name == table.source.name == python.source.name
    assert flat.source.name.endswith("?include=%2A.md&hidden=1")


def remembered(source: Any, **options: Any) -> dict[str, Any] | None:
    settings = Pipeline(source, **{"into": "memory://x"} | options)._components.settings
    return None if settings is None else json.loads(settings)


def test_several_models(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a file, on the command line and in the ledger: names, and folders as seen from the file."""
    Path("elsewhere/static").mkdir(parents=True)
    values = {"into": "memory://x", "model": {"a": "./static?dim=8", "b": "org/name"}}
    assert relative_to("elsewhere", values)["model"] == {"a": f"{here}/elsewhere/static?dim=8", "b": "org/name"}
    assert relative_to("elsewhere", {"model": "static"})["model"] == f"{here}/elsewhere/static"
    assert parse_named(["late=./x?pool=2", "dense=m"]) == {"late": "./x?pool=2", "dense": "m"}
    assert [parse_named([one]) for one in ("org/name", "./a=b", "a=b")] == ["org/name", "./a=b", {"a": "b"}]
    for wrong, why in ((["a=x", "y"], "'y' of several: expected NAME=MODEL"), (["a=x", "a=y"], "two models 'a'")):
        assert main(["ingest", "docs", "--into", "memory://x", *(f"--model={one}" for one in wrong)]) == 2
        assert why in capsys.readouterr().err


def test_what_is_remembered_is_independent_of_the_working_directory(here: Path) -> None:
    kept = remembered(Path("docs"), into="lance://./x", include=["*.md"], skip=[Path("docs/x")], memory=1 << 26)
    assert kept is not None
    assert kept["source"] == [str(here / "docs")]
    assert kept["into"] == [f"lance://{here}/x"]
    assert kept["memory"] == "67108864"
    assert kept["options"] == {"include": ["*.md"], "skip": [str(here / "docs/x")]}


def test_components_and_keys_are_not_remembered(here: Path) -> None:
    """Keys of a bucket are not written into a ledger."""
    assert remembered("docs") is not None
    assert remembered("docs", model=ones) is None
    assert remembered("docs", storage={"secret": "hunter2"}) is None
    assert remembered(Files("docs")) is None
    assert remembered("docs", parsers={"text/x-log": lambda stream, item: []}) is None


def change(ledger: Path, **changes: Any) -> None:
    """Have a ledger remember other settings."""
    with closing(sqlite3.connect(ledger)) as database, database:
        kept = json.loads(database.execute("SELECT value FROM meta WHERE key = 'settings'").fetchone()[0])
        database.execute("UPDATE meta SET value = ? WHERE key = 'settings'", [json.dumps(kept | changes)])


def test_a_ledger_of_an_earlier_version_is_read(here: Path) -> None:
    """It remembers the options of its source flat: `include`, `exclude`, `hidden`."""
    shutil.copy(V1 / "words.db", here / "words.db")
    assert Pipeline.from_state("words.db").source.name.endswith("tests/data/versions/v1/docs")
    change(here / "words.db", include=["*.md"], hidden=True)
    assert Pipeline.from_state("words.db").source.name.endswith("?include=%2A.md&hidden=1")
    assert Pipeline.from_state("words.db", hidden=False).source.name.endswith("?include=%2A.md")


def test_a_ledger_with_an_unknown_option_is_named(here: Path) -> None:
    """One of a later version, for instance."""
    shutil.copy(V1 / "words.db", here / "words.db")
    change(here / "words.db", included=["a"])
    with pytest.raises(UsageError, match=r"^words\.db: unknown option 'included' of file://: did you mean 'include'"):
        Pipeline.from_state("words.db")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 3.5}, "invalid chunk 3.5: expected a size such as '256 tokens', or a function"),
        ({"parsers": [print]}, "invalid parsers .*: expected a mapping of media types to functions"),
        ({"parsers": {"text/x-log": 3}}, "invalid parser 3 of text/x-log: expected a function"),
    ],
    ids=str,
)
def test_what_is_neither_word_nor_component_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^Pipeline: {message}"):
        Pipeline("docs", into="memory://x", **options)


# ---------------------------------------------------------------- values of every type

WRONG = [
    *(0, 1, -1, 10**30, 1.5, float("inf"), float("-inf"), float("nan"), True, False),
    *([], [1], [[]], ["a", 1], [{}], {}, {"a": 1}, {"a": {"b": [1]}}, {"source": 1}),
    *(datetime(2026, 11, 30, 7, 32, tzinfo=UTC), date(2026, 11, 30), time(7, 32)),
    *("", " ", "\n", "x", "x" * 5000, "\0", "a\0b", ["a\0b", "c"], [""], "://", "no://x", "s3://", "lance://"),
    *("~nobody999/x", "docs/../../../..", "file://host/x", "%00", "\ufeff", "\u202e"),
]
KINDS = (
    "true or false",
    "a text",
    "a whole number",
    "a number",
    "a list",
    "a mapping",
    "a path",
    "a url",
    "a size",
    "a table",
)


def written(value: object) -> str:
    """As TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {written(one)}" for name, one in value.items()) + "}"
    return value.isoformat() if isinstance(value, date | time) else str(value)


@pytest.mark.parametrize("folder", [".", "elsewhere"])
@pytest.mark.parametrize("name", [*OPTIONS, "options", *(option.name for option in FILES)])
def test_an_option_of_the_wrong_type_is_one_line_with_its_name(here: Path, name: str, folder: str) -> None:
    """Wherever the file lies: its paths are from there."""
    Path(folder, "docs").mkdir(parents=True, exist_ok=True)
    path = Path(folder, "penstock.toml")
    for value in WRONG:
        values = {"source": "docs", "into": "memory://x", name: value}
        path.write_text("\n".join(f"{one} = {written(each)}" for one, each in values.items()), encoding="utf-8")
        try:
            Pipeline.from_toml(path)
        except UsageError as error:
            message = str(error)
            assert "\n" not in message, value
            if not isinstance(value, str | list | dict):
                assert name in message, (value, message)
                assert "expected" in message, (value, message)
                if not isinstance(value, int):  # of which some options take a few
                    assert any(kind in message for kind in KINDS), (value, message)


@pytest.mark.parametrize(
    "settings",
    [
        *("", "[", "1", "null", "[]", '"docs"', '{"source": 1}', '{"source": ["docs"], "into": 1}', "[" * 100_000),
        *(
            '{"into": ["memory://x"], "source": [1]}',
            '{"namespace": 1}',
            '{"source": {"a": 1}, "into": ["memory://x"]}',
        ),
        '{"into": ["memory://x"], "source": ["docs"], "nonsense": 1}',
    ],
)
def test_settings_of_a_ledger_that_are_none(here: Path, settings: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command says so in a line; a run writes them anew."""
    state = "state/notes.db"
    pipeline = Pipeline("docs", into="memory://x", model=ones, state=state)
    pipeline.run()
    with Ledger.writer(state) as ledger:
        ledger.set("settings", settings)
    for command in (["status"], ["plan"], ["verify"], ["documents", "--missing"], ["explain", "docs/a.md"]):
        status = main([*command, "--state", state])
        said = capsys.readouterr().err
        if status != 0 or command == ["plan"]:
            assert status == 2, said
            assert said.count("\n") == 1
            assert "unexpected" not in said
    assert main(["ledgers", "state", "--json"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
