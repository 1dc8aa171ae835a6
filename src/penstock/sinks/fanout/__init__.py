"""Several sinks filled in one pass; one that is away catches up."""

from penstock.sinks.fanout.sink import FanOut, members

__all__ = ["FanOut", "members"]
