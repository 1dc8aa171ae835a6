"""An index that is rebuilt while it is served: followed without a failed request, and never two spaces mixed."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from penstock.core.contracts import Embedder
from penstock.core.errors import ModelError, SinkError, SpaceMismatch, UsageError
from penstock.engine.freshness import Freshness
from penstock.engine.progress import COUNTERS, Progress
from penstock.pipeline import Pipeline
from penstock.sinks.memory import forget
from penstock.testing.chaos import Lines
from penstock.testing.embedders import HashingEmbedder, OtherEmbedder
from penstock.testing.sources import ListSource
from tests.server.serving import Client, ColourEmbedder, chunk, either, fill, refused, served, with_settings

DOCUMENTS = {f"doc:{n}": "\n".join(f"document d{n} line m{m}" for m in range(3)) for n in range(20)}


class Live:
    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.state = url, folder / "ledger.db"
        self.source = ListSource({uri: text.encode() for uri, text in DOCUMENTS.items()})

    def pipeline(self, model: Embedder) -> Pipeline:
        return Pipeline(self.source, into=self.url, model=model, chunk=Lines(), state=self.state)


def model_of(client: Client) -> str:
    return str(client.get("/v1/status").json()["model"]["model"])


def until(client: Client, model: str, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while model_of(client) != model:
        assert time.monotonic() < end, f"still {model_of(client)}"
        time.sleep(0.02)


@pytest.mark.parametrize("store", ["memory", "lance"])
def test_followed_without_a_failed_request(store: str, tmp_path: Path) -> None:
    """Searched all the while by several, built anew twice with other models, the old ones dropped at once. In a mix
    of two spaces equal words would be far from each other."""
    live = Live(f"lance://{tmp_path}/index" if store == "lance" else "memory://serve-moving", tmp_path)
    live.pipeline(HashingEmbedder(64)).run()
    stop, wrong, asked = threading.Event(), list[str](), [0]

    def ask(number: int) -> None:
        with Client(str(client.base_url)) as mine:
            while not stop.is_set():
                n = (number + asked[0]) % 20
                query = {"text": f"document d{n} line m1", "k": 1, "distinct": number == 0}
                answer = mine.post("/v1/search", json=query)
                asked[0] += 1
                if answer.status_code != 200:
                    wrong.append(answer.text)
                elif (hits := answer.json()["hits"]) and hits[0]["score"] < 0.99:
                    wrong.append(f"{n}: {hits}")

    settings = with_settings(poll=0.2, threads=4)
    with served(
        live.url, settings, opener=either(HashingEmbedder(64), OtherEmbedder(64), HashingEmbedder(32))
    ) as client:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            live.pipeline(OtherEmbedder(64)).reindex()
            until(client, "other")
            live.pipeline(OtherEmbedder(64)).drop_former()
            assert client.get("/readyz").status_code == 200
            live.pipeline(HashingEmbedder(32)).reindex()
            live.pipeline(HashingEmbedder(32)).drop_former()  # at once: what is served is gone before it is followed
            until(client, "hashing")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert client.get("/v1/status").json()["model"]["dim"] == 32
        assert client.get("/v1/status").json()["index"].endswith("_2")
    assert not wrong, wrong[:3]
    assert asked[0] > 50
    if store == "memory":
        for name in ("", "_1", "_2"):
            forget(live.url + name)


def test_a_new_index_that_cannot_be_opened_leaves_the_old_one(tmp_path: Path) -> None:
    """Its model is not known here: what was served is served on, and the status says why."""
    live = Live("memory://serve-stuck", tmp_path)
    live.pipeline(HashingEmbedder(64)).run()
    with served(live.url, opener=either(HashingEmbedder(64))) as client:
        live.pipeline(OtherEmbedder(64)).reindex()
        end = time.monotonic() + 5
        while not (trouble := client.get("/v1/status").json()["trouble"]):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "other" in trouble
        answer = client.post("/v1/search", json={"text": "document d3 line m1", "k": 1}).json()
        assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
        assert client.get("/readyz").status_code == 200
    for name in ("", "_1"):
        forget(live.url + name)


def test_an_index_that_goes_away_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """503 and not ready as long as it is gone; back again without a restart. The log alone says where it was."""
    url = "memory://serve-away"
    fill(url, [chunk(1, "words")])
    with served(url) as client:
        forget(url)
        answer = client.get("/v1/search?q=words")
        refused(answer, 503, "log has the reason")
        assert url not in answer.text
        assert f"there is no index at {url}" in caplog.text
        assert answer.headers["retry-after"] == "1"
        ready = client.get("/readyz")
        assert (ready.status_code, "index is unavailable" in ready.json()["reason"]) == (503, True)
        health = client.get("/health")
        assert (health.status_code, health.headers["retry-after"]) == (503, "1")
        assert client.get("/healthz").status_code == 200
        fill(url, [chunk(1, "words")])
        assert client.found(text="words") == ["doc:1"]
    forget(url)


def test_errors_at_the_start(tmp_path: Path) -> None:
    """No index, another model's, no such store, no model, a port in use: raised before anything listens."""
    with pytest.raises(SinkError, match="no index"), served("memory://serve-nowhere"):
        pass
    with pytest.raises(SinkError, match="no index"), served(f"lance://{tmp_path}/nowhere"):
        pass
    with pytest.raises(UsageError, match="unknown index"), served("nosuch://x"):
        pass
    url = "memory://serve-start"
    fill(url, [chunk(1, "words")])
    with pytest.raises(SpaceMismatch), served(url, opener=either(OtherEmbedder())):
        pass

    class Absent(ColourEmbedder):
        def open(self) -> None:
            raise ModelError("the model is not here")

    with pytest.raises(ModelError, match="not here"), served(url, opener=either(Absent())):
        pass
    with served(url) as client:
        taken = with_settings(port=client.base_url.port)
        with pytest.raises(UsageError, match="cannot listen"), served(url, taken):
            pass
    with pytest.raises(UsageError, match="cannot listen"), served(url, with_settings(host="256.1.1.1")):
        pass
    forget(url)


def test_the_ledger_is_reported(tmp_path: Path) -> None:
    """Documents by state, the last run, failures; of the ledger that is current, or why it cannot be read."""
    live = Live("memory://serve-ledger", tmp_path)
    live.pipeline(HashingEmbedder(64)).run()
    opener = either(HashingEmbedder(64), OtherEmbedder(64))
    with served(live.url, with_settings(state=live.state), opener=opener) as client:
        ledger = client.get("/v1/status").json()["ledger"]
        assert (ledger["documents"], ledger["done"], ledger["failures"], len(ledger["runs"])) == (20, 20, 0, 1)
        assert ledger["runs"][0]["status"] == "done"
    with served(live.url, with_settings(state=tmp_path / "none.db"), opener=opener) as client:
        assert "no ledger" in client.get("/v1/status").json()["ledger"]["error"]
    forget(live.url)


def test_what_was_emptied_is_not_answered_from(tmp_path: Path) -> None:
    """Nobody looks for another generation by the clock here: that nothing is found is enough."""
    live = Live("memory://serve-emptied", tmp_path)
    live.pipeline(HashingEmbedder(64)).run()
    opener = either(HashingEmbedder(64), OtherEmbedder(64))
    with served(live.url, with_settings(poll=1000), opener=opener) as client:
        assert client.found(text="document d3 line m1", k=1)
        live.pipeline(OtherEmbedder(64)).reindex()
        live.pipeline(OtherEmbedder(64)).drop_former()
        answer = client.post("/v1/search", json={"text": "document d3 line m1", "k": 1}).json()
        assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
        assert model_of(client) == "other"
        assert client.found(text="document", where={"uri": "nowhere"}) == []
    for name in ("", "_1"):
        forget(live.url + name)


def test_metrics_of_the_run_that_fills_the_index(tmp_path: Path) -> None:
    """Where the server knows its ledger; what another version's run has noted is left out."""
    live = Live("memory://serve-metrics", tmp_path)
    live.pipeline(HashingEmbedder(64)).run()
    opener = either(HashingEmbedder(64))
    with served(live.url, with_settings(state=live.state), opener=opener) as client:
        assert "penstock_run" not in client.get("/metrics").text
        note = live.state.with_name(f"{live.state.name}.now")
        counts = dict.fromkeys(COUNTERS, 0) | {"documents": 7}
        moment = Progress(3.0, counts, (), 1, True, 0, minute={"documents": 0.5}).to_json()
        moment["freshness"] = Freshness().describe()
        note.write_text(json.dumps({"at": time.time(), **moment}))
        text = client.get("/metrics").text
        assert 'penstock_run_total{what="documents"} 7' in text
        assert 'penstock_run_per_second{what="documents"} 0.5' in text
        assert "penstock_requests_total" in text
        note.write_text(json.dumps({"at": time.time(), "documents": 7}))
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert "penstock_run" not in answer.text
    forget(live.url)
