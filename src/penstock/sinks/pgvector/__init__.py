"""PostgreSQL with the extension pgvector: a table, a column for the vectors of each name.

    pgvector://user@host:5432/database/table    in the schema `public`, or `?schema=docs`; `?tls=1` over TLS only

The password comes from PGPASSWORD or, as with every client of PostgreSQL, from ~/.pgpass.
"""

from penstock.sinks.pgvector.index import PgvectorIndex
from penstock.sinks.pgvector.sink import PgvectorSink

__all__ = ["PgvectorIndex", "PgvectorSink"]
