"""Values of metadata as stores compare them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from penstock.core.fields import seconds
from penstock.core.metadata import normalized_value


def test_seconds_are_in_the_order_of_the_texts() -> None:
    """Dates and times as they are kept, to the microsecond; other values have none."""
    start = datetime(2024, 2, 28, 23, 59, 59, tzinfo=UTC)
    steps = [timedelta(0), timedelta(microseconds=1), timedelta(microseconds=999_999), timedelta(seconds=1)]
    times = [start + timedelta(days=365 * year) + step for year in range(-300, 200, 50) for step in steps]
    texts = sorted(normalized_value(value, "") for time in times for value in (time, time.date()))
    numbers = [seconds(text) for text in texts]
    assert numbers == sorted(number for number in numbers if number is not None)
    assert len(set(numbers)) == len(set(texts))
    assert [seconds(value) for value in ("2024", "2024-13-01", "2024-01-01 10:00", 20240101, None)] == [None] * 5
