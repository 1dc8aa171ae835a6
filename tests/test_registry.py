"""Names and components: built in, of plug-ins, unknown, and those that cannot be imported."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import penstock
from penstock import registry
from penstock.cli.main import main
from penstock.compose import make_embedder, make_index, make_sink
from penstock.core.errors import UsageError
from penstock.parsers import Parsers
from penstock.pipeline import Pipeline
from penstock.registry import EMBEDDERS, INDEXES, PARSERS, SINKS, SOURCES, Row, Table, find, has_index, knows
from penstock.sinks.lance import LanceSink
from penstock.sinks.memory import MemorySink, forget
from penstock.sources import from_url
from penstock.support import heap
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite

PLUGIN = Path(__file__).parent / "plugin"
TABLES = (SOURCES, SINKS, INDEXES, EMBEDDERS, PARSERS)


def install(folder: Path, name: str = "penstock-shelf") -> Path:
    """The metadata that an installation of the plug-in leaves in a folder of packages."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = folder / f"{name.replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plug-in, installed; gives the folder with its metadata."""
    packages = install(tmp_path / "packages")
    monkeypatch.setattr(sys, "path", [str(packages), str(PLUGIN), *sys.path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(heap, "tighten", lambda: None)
    yield packages
    if shelf := sys.modules.get("penstock_shelf"):
        shelf.forget("memory://shelf/notes")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_every_row_leads_to_something(table: Table) -> None:
    for name, row in table.items():
        module, _, attribute = row.target.partition(":")
        source = Path(registry.__file__).parents[1] / f"{module.replace('.', '/')}"
        text = (source.with_suffix(".py") if source.with_suffix(".py").exists() else source / "__init__.py").read_text()
        assert attribute in text, name


def test_an_unknown_name_is_refused_with_those_there_are(plugin: Path) -> None:
    """Built-in names and those of plug-ins, and the nearest of them."""
    with pytest.raises(UsageError, match=r"unknown sink 'shelv'; there are: .*lance.*shelf.*Did you mean 'shelf'\?"):
        make_sink("shelv://notes")
    with pytest.raises(UsageError, match=r"unknown index 'qdrnt'; there are: .*Did you mean 'qdrant'\?"):
        make_index("qdrnt://x")
    with pytest.raises(
        UsageError, match=r"unknown prefix of a model 'leters'; there are: int8, letters, m3, splade, torch"
    ):
        make_embedder("leters:3")


def test_a_plug_in_cannot_take_a_built_in_name(plugin: Path) -> None:
    """The built-in one stays, and an error on a sink says who wanted its name."""
    assert isinstance(make_sink("lance://./x"), LanceSink)
    with pytest.raises(UsageError, match=r"the name is built in: lance of the plug-in penstock-shelf 1\.2"):
        make_sink("nosuch://x")


def test_a_plug_in_that_cannot_be_imported_is_named_with_the_cause(plugin: Path) -> None:
    """And nothing else breaks: not the listing of names, and not its other components."""
    with pytest.raises(
        UsageError,
        match=r"the plug-in penstock-shelf 1\.2 cannot be loaded: its entry point torn = penstock_shelf\.torn:TornSink"
        r" of penstock\.sinks raises OSError: libtorn\.so\.1: cannot open",
    ) as raised:
        make_sink("torn://x")
    assert isinstance(raised.value.__cause__, OSError)
    with pytest.raises(UsageError, match="shelf, sqlite, torn, weaviate"):
        make_sink("nosuch://x")
    assert make_sink("shelf://notes").url == "shelf://notes"
    assert not has_index("torn://x")


def test_two_plug_ins_of_one_name_are_refused(plugin: Path, tmp_path: Path) -> None:
    install(tmp_path / "more", "penstock-rack")
    sys.path.insert(0, str(tmp_path / "more"))
    with pytest.raises(UsageError, match=r"in several plug-ins, penstock-rack 1\.2 and penstock-shelf 1\.2: uninstall"):
        make_sink("shelf://notes")


def test_built_in_names_never_look_for_plug_ins() -> None:
    """Looking for them takes longer than all else at the start."""
    code = (
        "import sys; from penstock.compose import make_sink; make_sink('memory://x'); make_sink('lance://./x')\n"
        "assert 'importlib.metadata' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_source_has_options_of_its_own(plugin: Path, tmp_path: Path) -> None:
    """By Python, by penstock.toml, and remembered by the ledger."""
    assert len(list(from_url("verse://the-river", verses=2).changes())) == 3
    pipeline = Pipeline("verse://the-river", into="shelf://notes", model="letters:4", verses=5, state="a.db")
    assert pipeline.run().added == 5
    assert Pipeline.from_state("a.db").run().unchanged == 5
    assert Pipeline.from_state("a.db", verses=6).run().added == 1
    Path("penstock.toml").write_text(
        'source = "verse://the-river"\ninto = "shelf://notes"\nmodel = "letters:4"\nstate = "a.db"\n'
        "[options]\nverses = 7\n"
    )
    assert Pipeline.from_toml("penstock.toml").run().added == 1
    with pytest.raises(UsageError, match=r"Pipeline: unknown option 'verse' of verse://: did you mean 'verses'\?"):
        Pipeline("verse://the-river", into="shelf://notes", verse=5)
    with pytest.raises(UsageError, match="Pipeline: invalid verses 0: expected at least 1"):
        Pipeline("verse://the-river", into="shelf://notes", verses=0)


def test_an_index_remembers_a_model_with_two_vectors(plugin: Path) -> None:
    """By its whole name, prefix included, under which a search finds it again."""
    Pipeline("verse://the-river", into="shelf://notes", model="letters:4", state="a.db").run()
    with penstock.open_index("shelf://notes") as index:
        assert index.manifest.schema.vectors["first"].model == "letters:4"
        hits = index.search("the river, verse 1", k=1, using="all")
        assert hits[0].chunk.text.startswith("the river, verse")


def test_a_parser_of_a_plug_in_reads_its_files(plugin: Path) -> None:
    """Also where detection only sees text; one that cannot be imported fails its own files alone."""
    Path("docs").mkdir()
    Path("docs/a.log").write_text("12:00 the gate opens\n")
    Path("docs/b.torn").write_text("torn\n")
    Path("docs/c.txt").write_text("as ever\n")
    items = {change.item.uri[-5:]: change.item for change in from_url("docs").changes() if hasattr(change, "item")}
    with Parsers() as parsers:
        parsed = parsers.parse(items["a.log"])
        assert (parsed.parser, parsed.media_type) == ("parse_log", "text/x-log")
        assert [block.text for block in parsed.blocks] == ["the gate opens\n"]
        assert [block.text for block in parsers.parse(items["c.txt"]).blocks] == ["as ever\n"]
    report = Pipeline("docs", into="shelf://notes", model="letters:4", state="a.db").run()
    assert (report.added, report.failed) == (2, 1)


@pytest.fixture
def run(plugin: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*argv: str) -> tuple[int, str]:
        status = main(argv)
        said = capsys.readouterr()
        return status, said.out + said.err

    return call


def test_a_sink_of_a_plug_in_works_in_every_command(run: Callable[..., tuple[int, str]]) -> None:
    """By its url alone: filled, copied, searched, explained, verified, built anew."""
    Path("docs").mkdir()
    Path("docs/a.md").write_text("The gate decides.")
    Path("penstock.toml").write_text('source = "docs"\ninto = "shelf://notes"\nmodel = "letters:4"\nstate = "a.db"\n')
    status, out = run("run", "penstock.toml")
    assert (status, "1 added" in out) == (0, True), out
    status, out = run("search", "gate", "--in", "shelf://notes", "--using", "all")
    assert (status, "The gate decides." in out) == (0, True), out
    assert "using" in run("search", "gate", "--in", "shelf://notes")[1]
    assert run("copy", "shelf://notes", "--into", "memory://copied-from-shelf")[0] == 0
    (point,) = MemorySink("memory://copied-from-shelf").fetch(next(MemorySink("memory://copied-from-shelf").ids()))
    forget("memory://copied-from-shelf")
    status, out = run("explain", point.id, "--state", "a.db")
    assert (status, "The gate decides." in out) == (0, True), out
    status, out = run("reindex", "--chunk", "500 characters", "--state", "a.db")
    assert (status, "recall     100.0%" in out) == (0, True), out
    assert run("verify", "--state", "a.db")[0] == 0
    assert run("reindex", "--rollback", "--state", "a.db") == (0, "current: shelf://notes\n")
    assert run("reindex", "--drop", "--state", "a.db") == (0, "dropped: shelf://notes_1\n")


def test_an_installed_plug_in_works_from_the_command_line(plugin: Path, tmp_path: Path) -> None:
    """In a process of its own, that knows nothing but the packages on its path."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("The gate decides.")
    path = os.pathsep.join([str(plugin), str(PLUGIN), str(Path(penstock.__file__).parents[1])])
    words = ["ingest", "docs", "--into", "shelf://notes", "--model", "letters:4"]
    command = [sys.executable, "-m", "penstock", *words]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 added" in done.stdout


def test_relative_paths_in_the_urls_of_a_plug_in_are_made_absolute(plugin: Path, tmp_path: Path) -> None:
    from penstock.jobs.places import absolute

    assert absolute("shelf://./notes") == f"shelf://{tmp_path}/notes"
    assert absolute("verse://./notes") == f"verse://{tmp_path}/notes"
    assert absolute("verse://notes") == "verse://notes"
    assert absolute("nosuch://./notes") == "nosuch://./notes"
    assert knows(SINKS, "shelf")
    assert find(SINKS, "shelf").__name__ == "ShelfSink"


class TestShelf(SinkSuite):
    """The suite, on a sink of somebody else's: its class, and how to reach one."""

    shared = False
    has_words = True

    @pytest.fixture
    def make_sink(self, plugin: Path) -> MakeSink:
        shelf = find(SINKS, "shelf")
        shelf("shelf://notes").drop()
        return lambda: shelf("shelf://notes")

    @pytest.fixture
    def make_index(self, plugin: Path) -> MakeIndex:
        return lambda: find(INDEXES, "shelf")("shelf://notes")


def test_components_of_a_plug_in_pickle(plugin: Path) -> None:
    assert pickle.loads(pickle.dumps(make_sink("shelf://notes"))).url == "shelf://notes"


@pytest.mark.parametrize("built_in", [False, True])
def test_a_source_has_flags_of_its_own(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, built_in: bool
) -> None:
    """Its declared flags are options of `ingest` and `plan` where its url is on the command line."""
    if built_in:
        monkeypatch.setitem(SOURCES, "verse", Row("penstock_shelf:VerseSource"))
    words = ["verse://the-river", "--into", "shelf://notes", "--model", "letters:4", "--state", "a.db"]
    status, out = run("ingest", *words, "--verses", "5")
    assert (status, "5 added" in out) == (0, True), out
    status, out = run("plan", *words, "--verses", "6")
    assert (status, "1 new" in out) == (0, True), out
    status, out = run("ingest", *words, "--verses", "0")
    assert (status, "invalid verses 0: expected at least 1" in out) == (2, True), out
    assert "--verses N" in run("ingest", *words, "--help")[1]
    assert "Did you mean --verses?" in run("ingest", *words, "--verse", "5")[1]
    assert "unrecognized arguments: --verses 5" in run("ingest", ".", *words[1:], "--verses", "5")[1]


def test_a_plug_in_that_makes_something_else_is_named(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import penstock_shelf

    for name in ("ShelfSink", "ShelfIndex", "LettersEmbedder", "VerseSource"):
        monkeypatch.setattr(penstock_shelf, name, lambda word: 3)
    for make, word in ((make_sink, "shelf://x"), (make_index, "shelf://x"), (make_embedder, "letters:3")):
        with pytest.raises(UsageError, match=f"the plug-in behind {word} is broken: it makes a builtins.int"):
            make(word)
    with pytest.raises(UsageError, match=r"the plug-in behind verse:// is broken: .* is not a Source"):
        from_url("verse://x")


def test_a_store_without_a_search_says_so() -> None:
    with pytest.raises(UsageError, match=r"parquet://\./parts cannot be searched: parquet:// only takes points"):
        make_index("parquet://./parts")
