"""examples/skypilot: valid, and its commands do what its README says, on machines that are killed at random."""

from __future__ import annotations

import itertools
import os
import random
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.arguments import make_parser
from penstock.shards import verify
from penstock.sinks.sqlite import SqliteSink
from penstock.sources.files import Files

from .test_kills import ROWS, names, repeated
from .test_loading import loaded_uris
from .world import pictures, torn, uris

yaml = pytest.importorskip("yaml")

HERE = Path(__file__).parents[2] / "examples" / "skypilot"
FILES = ("embed.yaml", "build.yaml", "serve.yaml")
STAND_IN = f"""#!{sys.executable}
# The command line as far as the examples use it, with a model of the tests, and a database that any folder holds.
import argparse, os, sys
sys.path.insert(0, {str(HERE.parents[1])!r})
parser = argparse.ArgumentParser()
parser.add_argument("command")
parser.add_argument("source")
parser.add_argument("--model")
parser.add_argument("--out")
parser.add_argument("--into")
parser.add_argument("--pieces", type=int)
parser.add_argument("--claim", action="store_true")
parser.add_argument("--quiet", action="store_true")
args = parser.parse_args()
from penstock.compose import embed, load
from penstock.shards import verify
from penstock.shards.embed import Options
from tests.shards.world import PixelEmbedder
source = args.source.replace("/images", os.environ["LOCAL"] + "/images")
if args.command == "embed":
    model = PixelEmbedder(os.environ["LOG"], seconds=0.02)
    options = Options(rows={ROWS}, ttl=2.0, memory="64MiB")
    done = embed(source, model, args.out, claim=args.claim, pieces=args.pieces, options=options)
elif args.command == "verify":
    done = verify(source)
else:
    done = load(source, "sqlite://" + os.environ["LOCAL"] + "/index.db")
sys.exit(0 if done.ok else 1)
"""


def parsed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HERE / name).read_text())
    return found


@pytest.mark.parametrize("name", FILES)
def test_skypilot_accepts_the_files(name: str) -> None:
    """Checked by SkyPilot itself, where it is installed, or SKYPILOT_PYTHON names a Python that has it."""
    python = os.environ.get("SKYPILOT_PYTHON") or (sys.executable if find_spec("sky") else "")
    if not python:
        pytest.skip("SkyPilot is not installed; SKYPILOT_PYTHON names a Python that has it")
    code = "import sys, sky; task = sky.Task.from_yaml(sys.argv[1]); print(task.name, task.service is not None)"
    done = subprocess.run([python, "-c", code, str(HERE / name)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"penstock-{name[:-5]}", str(name == "serve.yaml")]


def test_the_resources_of_the_files() -> None:
    """Spot machines that are replaced, a probe of readiness, replicas between limits; and no secret is written down."""
    embed, build, serve = map(parsed, FILES)
    assert {"use_spot": True} in embed["resources"]["any_of"]
    assert embed["resources"]["job_recovery"]["strategy"]
    assert embed["envs"]["PARTS"] == build["envs"]["PARTS"]
    assert build["envs"]["INDEX"] == serve["envs"]["INDEX"]
    policy = serve["service"]["replica_policy"]
    assert 1 <= policy["min_replicas"] < policy["max_replicas"]
    assert serve["service"]["readiness_probe"]["path"] == "/readyz"
    port = serve["resources"]["ports"]
    assert f"--port {port}" in serve["run"]
    for file in (embed, build, serve):
        assert set((file.get("secrets") or {}).values()) == {None}


def commands(script: str) -> list[list[str]]:
    lines = [line.split("||")[0].split("#")[0] for line in script.splitlines()]
    return [shlex.split(line) for line in lines if line.strip().startswith("penstock ")]


@pytest.mark.parametrize("name", [*FILES, "README.md"])
def test_the_commands_are_valid(name: str) -> None:
    """Every option exists."""
    text = (HERE / name).read_text()
    script = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)) if name == "README.md" else parsed(name)["run"]
    found = commands(re.sub(r"\$PIECES", "64", script))
    assert found
    parser = make_parser()
    known = parser._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    for _, command, *arguments in found:
        if {"embed", "load", "serve"} - set(known):
            pytest.skip("the command line does not have them yet")
        parser.parse_args([command, *arguments])


def test_the_readme_names_the_files_and_variables() -> None:
    """All of them."""
    text = (HERE / "README.md").read_text()
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        words = line.split()
        if words[:1] == ["sky"] and (file := next((word for word in words if word.endswith(".yaml")), None)):
            task = parsed(file)
            for option, value in itertools.pairwise(words):
                if option == "--env":
                    assert value.partition("=")[0] in task["envs"], line
                elif option == "--secret":
                    assert value in task["secrets"], line
    assert set(re.findall(r"`(\w+\.yaml)`", text)) == set(FILES)


class Cloud:
    """This machine, as several that run the `run` of a file, with folders for buckets."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root / "log"
        shim = root / "bin" / "penstock"
        shim.parent.mkdir()
        shim.write_text(STAND_IN)
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
        self.parts = root / "parts"

    def start(self, name: str) -> subprocess.Popen[bytes]:
        file = parsed(name)
        environment = {
            **os.environ,
            **file["envs"],
            "PARTS": str(self.parts),
            "PIECES": "6",
            "LOCAL": str(self.root),
            "LOG": str(self.log),
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
        }
        return subprocess.Popen(["bash", "-c", file["run"]], env=environment, cwd=self.root, start_new_session=True)


def spot(tmp_path: Path, images: int, kills: int, seed: int) -> None:
    """Jobs that are preempted and launched anew; then build.yaml, which is preempted, too."""
    rng = random.Random(seed)
    source = pictures(tmp_path / "images", images)
    good = names(source)
    (source / "torn.png").write_bytes(torn())
    cloud = Cloud(tmp_path)
    running = [cloud.start("embed.yaml") for _ in range(3)]
    made = 0
    until = time.monotonic() + 240
    while running:
        assert time.monotonic() < until
        time.sleep(rng.uniform(0.1, 0.6))
        for job in [job for job in running if job.poll() is not None]:
            assert job.returncode == 0, "a failed image is no reason for a job to fail"
            running.remove(job)
        if running and made < kills and cloud.log.exists():
            victim = running.pop(rng.randrange(len(running)))
            os.killpg(victim.pid, signal.SIGKILL)
            victim.wait()
            running.append(cloud.start("embed.yaml"))
            made += 1
    assert made
    assert uris(cloud.parts) == good
    assert repeated(cloud.log) <= ROWS * made
    found = verify(cloud.parts, source=Files(str(source)))
    assert found.ok, found.troubles
    assert found.counts["failed"] == 1

    build = cloud.start("build.yaml")
    time.sleep(rng.uniform(0.3, 1.2))
    os.killpg(build.pid, signal.SIGKILL)
    build.wait()
    assert cloud.start("build.yaml").wait(100) == 0
    assert loaded_uris(SqliteSink(f"sqlite://{tmp_path}/index.db")) == good


def test_spot_jobs(tmp_path: Path) -> None:
    """The files' own commands, four machines lost."""
    spot(tmp_path, images=90, kills=4, seed=3)


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
def test_spot_jobs_for_long(seed: int, tmp_path: Path) -> None:
    """And many."""
    spot(tmp_path, images=600, kills=20, seed=seed)


def test_build_stops_at_missing_parts(tmp_path: Path) -> None:
    """And nothing is loaded."""
    pictures(tmp_path / "images", 20)
    cloud = Cloud(tmp_path)
    assert cloud.start("embed.yaml").wait(100) == 0
    (cloud.parts / "_done" / "0002-000001.json").unlink()
    assert cloud.start("build.yaml").wait(100) == 1
    assert not (tmp_path / "index.db").exists()
