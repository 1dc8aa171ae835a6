"""`delta://`: a Delta Lake table, for Spark, DuckDB, Polars, Trino and other readers of the format.

delta://./lake/chunks            a folder of this machine; or delta:///srv/lake/chunks
delta+s3://bucket/lake/chunks    an object store; as well delta+gs:// and delta+az://container/...

Keys come from the stores' own environment variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and
AWS_ENDPOINT_URL; GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY.
"""

from penstock.sinks.delta.sink import DeltaSink

__all__ = ["DeltaSink"]
