"""`parquet://`: a folder of Parquet files, for DuckDB, Polars, Spark and whatever comes next."""

from penstock.sinks.parquet.sink import ParquetSink

__all__ = ["ParquetSink"]
