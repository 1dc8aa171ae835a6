"""Penstock beside its peers: the same Markdown files, the same model, the same threads, a sink that keeps nothing.

    python benchmarks/peers.py --peers-python PEERS/bin/python       # a venv with the extra `peers`; about ten minutes
    python benchmarks/peers.py --quick                               # one round of little: tells that it runs, no more

    penstock                  the whole pipeline: files in, chunks of 256 tokens (the model's limit), vectors out
    sentence-transformers     encode(batch_size=32), fp32, of the very chunks that Penstock made: nothing else is timed
    penstock int8             the same with `int8:` before the model's name: other vectors
    penstock 1000             the whole pipeline, chunks of 1,000 characters
    embed-anything            embed_directory, ONNX backend, chunks of 1,000 characters, batches of 32
    embed-anything candle     the same, its other backend (with --candle)

Each is a process of its own that has loaded its model and been through the files once before anything is timed; then
they take turns, in rounds, and ratios are medians over the rounds. MB/s are bytes of the files: chunkers cut
differently, so between unlike chunks that is the fair unit, and chunks/s stand beside it.

Penstock runs in the interpreter that runs this; the peers in --peers-python, by default the same. Nothing is fetched:
the ONNX file is exported from the same weights, by torch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from figures import MISSED, record

NAME = "benchmark/model"
REVISION = "0" * 40
BATCH = 32
CHARACTERS = 1000
FASTER = {"sentence-transformers": 1.35, "embed-anything": 3.7}
"""Bars: times the peer's rate."""
PAUSE = 0.5
"""Seconds between two turns: OpenMP's threads spin a while after their work."""


# ---------------------------------------------------------------- the contenders, each in its own process

Timed = tuple[float, list[str]]
"""Seconds, and the chunks' texts."""
Contender = Callable[[Path, Path], Timed]
"""Of the files' folder, and of a JSON file with the chunks that Penstock makes of them."""


def penstock(model: Path, chunk: str | None, threads: int, *, exact: bool = True) -> Contender:
    from penstock.core.records import Point
    from penstock.embedders.onnx import OnnxEmbedder
    from penstock.pipeline import Pipeline
    from penstock.testing.sinks import NothingSink

    class Loaded(OnnxEmbedder):
        """Stays loaded from one run to the next."""

        def close(self) -> None: ...

    class Listening(NothingSink):
        def __init__(self) -> None:
            super().__init__()
            self.texts: list[str] = []

        def write(self, points: Sequence[Point]) -> None:
            self.texts += [point.chunk.text for point in points]

    # 1,000 characters can be more tokens than the authors of all-MiniLM-L6-v2 meant it for: 512 is what it takes.
    embedder = Loaded(model, workers=threads, length=512 if chunk else None, exact=exact)
    embedder.open()

    def run(files: Path, _: Path) -> Timed:
        with tempfile.TemporaryDirectory() as state:
            sink = Listening()
            began = time.perf_counter()
            report = Pipeline(
                files, into=sink, model=embedder, chunk=chunk, state=Path(state) / "ledger.db", workers=threads
            ).run()
            took = time.perf_counter() - began
        assert report.ok, report
        return took, sink.texts

    return run


def sentence_transformers(model: Path, threads: int) -> Contender:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    encoder = SentenceTransformer(str(model), device="cpu")

    def run(_: Path, chunks: Path) -> Timed:
        texts = json.loads(chunks.read_text())
        began = time.perf_counter()
        encoder.encode(texts, batch_size=BATCH, show_progress_bar=False)
        return time.perf_counter() - began, texts

    return run


def embed_anything(backend: str) -> Contender:
    """Run EmbedAnything with the model NAME of the hub cache in HF_HOME."""
    import embed_anything
    from embed_anything.vectordb import Adapter

    class Nothing(Adapter):  # type: ignore[misc]
        def __init__(self) -> None:
            self.texts: list[str] = []

        def create_index(self, dimension: int, metric: str, index_name: str, **kwargs: Any) -> None: ...

        def delete_index(self, index_name: str) -> None: ...

        def convert(self, embeddings: Any) -> Any:
            return embeddings

        def upsert(self, data: Iterable[Any]) -> None:
            self.texts += [one.text for one in data]

    if backend == "onnx":
        encoder = embed_anything.EmbeddingModel.from_pretrained_onnx(
            embed_anything.WhichModel.Bert, hf_model_id=NAME, path_in_repo="onnx/model.onnx"
        )
    else:
        encoder = embed_anything.EmbeddingModel.from_pretrained_hf(model_id=NAME)
    settings = embed_anything.TextEmbedConfig(chunk_size=CHARACTERS, batch_size=BATCH)

    def run(files: Path, _: Path) -> Timed:
        adapter = Nothing()
        began = time.perf_counter()
        embed_anything.embed_directory(
            str(files), embedder=encoder, extensions=["md"], config=settings, adapter=adapter
        )
        return time.perf_counter() - began, adapter.texts

    return run


def contender(name: str, model: Path, threads: int) -> Contender:
    match name:
        case "penstock":
            return penstock(model, None, threads)
        case "penstock int8":
            return penstock(model, None, threads, exact=False)
        case "penstock 1000":
            return penstock(model, f"{CHARACTERS} characters", threads)
        case "sentence-transformers":
            return sentence_transformers(model, threads)
        case "embed-anything":
            return embed_anything("onnx")
        case "embed-anything candle":
            return embed_anything("candle")
    raise ValueError(name)


def serve(name: str, model: Path, threads: int) -> None:
    """Answer each line on stdin with a line on stdout."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    run = contender(name, model, threads)
    print(json.dumps({"ready": name}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        took, texts = run(Path(task["files"]), Path(task["chunks"]))
        if "texts" in task:
            Path(task["texts"]).write_text(json.dumps(texts))
        print(json.dumps({"seconds": took, "chunks": len(texts), "peak": peak()}), file=answers, flush=True)


def limit(model: Path, threads: int) -> dict[str, float]:
    """GFLOP/s of a bare matrix product of the model's shapes, and the multiplications a token needs in its layers."""
    from embed_loop import dense_weights, matrix_limit

    from penstock.embedders.onnx import OnnxEmbedder

    with OnnxEmbedder(model) as embedder:
        embedder.open()
        weights, hidden = dense_weights(embedder)
    return {"weights": weights, "gflops": matrix_limit(hidden, threads)}


def peak() -> int:
    """The most memory this process has had, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise OSError("no VmHWM in /proc/self/status")


def export_model(python: str, model: Path, hub: Path, *, tiny: bool = False) -> None:
    """Have the peers' interpreter export the model; where that fails, end with its error."""
    command = [python, str(Path(__file__).resolve()), "--export", str(model), str(hub), *(["--tiny"] if tiny else [])]
    quiet = os.environ | {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=quiet)
    if done.returncode:
        sys.exit(
            f"{python} could not export the model to ONNX (it needs torch, transformers and onnx):\n"
            f"{done.stderr[-3000:].rstrip()}"
        )


def export(model: Path, hub: Path, tiny: bool) -> None:
    """Lay the model out as a hub cache has it, with an ONNX file; or one of a single layer with random weights."""
    import torch
    from transformers import BertConfig, BertModel

    own = hub / "hub" / f"models--{NAME.replace('/', '--')}"
    snapshot = own / "snapshots" / REVISION
    shutil.copytree(model, snapshot)
    (own / "refs").mkdir()
    (own / "refs" / "main").write_text(REVISION)
    marks = {
        name: f"[{name[:-6].upper()}]" for name in ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    }
    (snapshot / "special_tokens_map.json").write_text(json.dumps(marks))
    kind = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (snapshot / "tokenizer_config.json").write_text(json.dumps(marks | kind))
    if tiny:
        small = BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        small.save_pretrained(snapshot)
        bert = BertModel(small)
    else:
        bert = BertModel.from_pretrained(model)

    class States(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert.eval()

        def forward(self, ids: Any, mask: Any, kinds: Any) -> Any:
            return self.bert(input_ids=ids, attention_mask=mask, token_type_ids=kinds).last_hidden_state

    (snapshot / "onnx").mkdir()
    inputs, outputs = ["input_ids", "attention_mask", "token_type_ids"], ["last_hidden_state"]
    ones = torch.ones(2, 16, dtype=torch.long)
    torch.onnx.export(
        States(),
        (ones, ones, 0 * ones),
        str(snapshot / "onnx" / "model.onnx"),
        input_names=inputs,
        output_names=outputs,
        dynamic_axes={name: {0: "batch", 1: "length"} for name in inputs + outputs},
        opset_version=17,
        dynamo=False,
    )


# ---------------------------------------------------------------- the contest


class Process:
    """A contender that runs elsewhere."""

    def __init__(self, name: str, python: str, model: Path, hub: Path, threads: int) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        command = [python, str(Path(__file__).resolve()), "--serve", name, str(model), str(threads)]
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(hub), "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | quiet,
        )
        self._answer()

    def ask(self, **task: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            sys.exit(f"{self.name} ended:\n{self._log.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._log.close()


@dataclass(slots=True)
class Score:
    chunks: int
    tokens: int
    """Of its chunks, without special tokens."""
    text: int
    """Bytes of its chunks."""
    seconds: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def names(python: str, candle: bool) -> list[str]:
    present = ["penstock", "penstock int8", "penstock 1000"]
    peers = {"sentence_transformers": ["sentence-transformers"], "embed_anything": ["embed-anything"]}
    if candle:
        peers["embed_anything"].append("embed-anything candle")
    for module, own in peers.items():
        test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        if subprocess.run([python, "-c", test], check=False).returncode:
            print(f"{own[0]} is not installed: pip install 'penstock[peers]', here or for --peers-python")
        else:
            present += own
    return present


def contest(
    files: Path, contenders: Sequence[Process], model: Path, threads: int, rounds: int, folder: Path
) -> tuple[dict[str, Score], list[dict[str, float]]]:
    """Return the scores, and for each round the limit measured in it."""
    from penstock.embedders.onnx import OnnxEmbedder

    chunks = folder / "penstock.json"
    scores: dict[str, Score] = {}
    with OnnxEmbedder(model, workers=1) as embedder:
        embedder.open()
        assert embedder.tokenizer is not None
        for one in contenders:
            cut = folder / f"{one.name}.json"
            one.ask(files=str(files), chunks=str(chunks), texts=str(cut))
            texts = json.loads(cut.read_text())
            tokens = sum(map(len, embedder.tokenizer.encode(texts)))
            scores[one.name] = Score(len(texts), tokens, sum(len(text.encode()) for text in texts))
    order, limits = list(contenders), []
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for one in order:
            time.sleep(PAUSE)
            figures = one.ask(files=str(files), chunks=str(chunks))
            score = scores[one.name]
            assert figures["chunks"] == score.chunks
            score.seconds.append(figures["seconds"])
            score.peak = figures["peak"]
        limits.append(limit(model, threads))
    return scores, limits


def show(scores: dict[str, Score], size: int) -> None:
    print(f"{'':22} {'chunks':>7} {'chunks/s':>9} {'tokens/s':>9} {'MB/s':>7} {'text kept':>10} {'peak RSS MiB':>13}")
    for name, score in scores.items():
        took = score.median
        print(
            f"{name:22} {score.chunks:7} {score.chunks / took:9.1f} {score.tokens / took:9.0f} {size / took / 1e6:7.4f}"
            f" {score.text / size:10.1%} {score.peak / (1 << 20):13.0f}"
        )
        record(f"{name}, {size / 1e6:.2f} MB: rate", score.chunks / took, "chunks/s")
        record(f"{name}, {size / 1e6:.2f} MB: peak RSS", score.peak / (1 << 20), "MiB", better="lower")


def show_share(ours: Score, limits: Sequence[dict[str, float]]) -> None:
    """Print the share of a bare matrix product that the whole pipeline reaches in the model's dense layers."""
    gflop = 2 * limits[0]["weights"] * (ours.tokens + 2 * ours.chunks) / 1e9
    reached = [gflop / took for took in ours.seconds]
    share = statistics.median(a / b["gflops"] for a, b in zip(reached, limits, strict=True))
    mean = statistics.median(reached)
    print(f"penstock, whole: {mean:.0f} GFLOP/s in dense layers, {share:.0%} of what a bare matrix product reaches")


def judge(scores: dict[str, Score], size: int) -> bool:
    """Print Penstock's ratios, and whether they reach the bars."""
    well = True
    for peer, own in (
        ("sentence-transformers", "penstock"),
        ("sentence-transformers", "penstock int8"),
        ("embed-anything", "penstock 1000"),
        ("embed-anything candle", "penstock 1000"),
    ):
        if peer not in scores:
            continue
        ours, theirs = scores[own], scores[peer]
        rounds = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
        ratio = statistics.median(rounds)
        chunks = ratio * ours.chunks / theirs.chunks
        bar = FASTER.get(peer, 0.0) if own != "penstock int8" else 0.0
        well &= ratio >= bar
        word = f" ({'ok' if ratio >= bar else 'MISSED'}: at least {bar})" if bar else ""
        print(
            f"{own} / {peer}: {ratio:.2f} x by MB/s{word}, {chunks:.2f} x by chunks/s;"
            f" rounds from {min(rounds):.2f} to {max(rounds):.2f}"
        )
        record(f"{own} / {peer}, {size / 1e6:.2f} MB: by MB/s", ratio, "×", bar=bar or None)
        record(f"{own} / {peer}, {size / 1e6:.2f} MB: by chunks/s", chunks, "×")
    return well


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        return serve(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    if sys.argv[1:2] == ["--export"]:
        return export(Path(sys.argv[2]), Path(sys.argv[3]), "--tiny" in sys.argv)
    if sys.argv[1:2] == ["--embed-once"]:
        took, texts = embed_anything("onnx")(Path(sys.argv[2]), Path())
        return print(json.dumps({"seconds": took, "chunks": len(texts), "peak": peak()}))
    from corpus import make

    from penstock.embedders.models import resolve
    from penstock.support.sizes import parse_size

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--model", help="a folder or a name in a cache; the default model if not given")
    parser.add_argument("--size", type=parse_size, default="200kB", help="of the files together (200kB: 300 chunks)")
    parser.add_argument("--files", type=Path, help="a folder of Markdown files to take instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--candle", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = options.files or folder / "files"
        if not options.files:
            make(files, 20_000 if options.quick else options.size, file_size=10_000)
        size = sum(path.stat().st_size for path in files.rglob("*.md"))
        model, hub = resolve(options.model), folder / "hub"
        taking_part = names(options.peers_python, options.candle)
        if any(name.startswith("embed-anything") for name in taking_part):
            export_model(options.peers_python, model, hub)
        contenders = []
        for name in taking_part:
            python = sys.executable if name.startswith("penstock") else options.peers_python
            contenders.append(Process(name, python, model, hub, options.threads))
            stack.callback(contenders[-1].close)
        scores, limits = contest(files, contenders, model, options.threads, rounds, folder)
        print(f"{size / 1e6:.2f} MB of Markdown, {options.threads} threads each, {rounds} rounds; medians")
        show(scores, size)
        show_share(scores["penstock"], limits)
        well = judge(scores, size)
    sys.exit(0 if well or options.quick else MISSED)


if __name__ == "__main__":
    main()
