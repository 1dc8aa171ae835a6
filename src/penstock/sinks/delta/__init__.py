"""`delta://`: a Delta Lake table, for Spark, DuckDB, Polars, Trino and whatever else reads the format.

delta://./lake/chunks            a folder of this machine; or delta:///srv/lake/chunks
delta+s3://bucket/lake/chunks    an object store; as well delta+gs:// and delta+az://container/...
"""

from penstock.sinks.delta.sink import DeltaSink

__all__ = ["DeltaSink"]
