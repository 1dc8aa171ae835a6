"""Places that clients hold in turns."""

from __future__ import annotations

import threading

import pytest

from penstock.support.fair import Places
from tests.live import until


def test_no_more_than_the_places_are_held_at_once() -> None:
    places = Places(2)
    held = most = 0
    lock = threading.Lock()

    def work(client: str) -> None:
        nonlocal held, most
        for _ in range(200):
            with places.hold(client, 1.0, lambda: False):
                with lock:
                    held += 1
                    most = max(most, held)
                with lock:
                    held -= 1

    threads = [threading.Thread(target=work, args=(client,)) for client in "aabbcc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert 1 <= most <= 2
    assert places.waiting == 0


def test_a_place_is_free_again_after_an_error_and_after_a_wait_that_was_given_up() -> None:
    places = Places(1)
    with pytest.raises(ValueError, match="of the caller"), places.hold("a", 1.0, lambda: False):
        raise ValueError("of the caller")
    given_up, raised = threading.Event(), threading.Event()

    def wait() -> None:
        with pytest.raises(InterruptedError), places.hold("b", 1.0, given_up.is_set):
            pass
        raised.set()

    with places.hold("a", 1.0, lambda: False):
        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: places.waiting == 1)
        given_up.set()
        assert raised.wait(60)
        thread.join(60)
    with places.hold("c", 1.0, lambda: False):
        assert places.waiting == 0
