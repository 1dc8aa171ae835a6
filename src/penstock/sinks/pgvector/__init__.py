"""PostgreSQL with the extension pgvector: a table, a column for the vectors of each name.

    pgvector://user@host:5432/database/table    in the schema `public`, or `?schema=docs`; `?tls=1` over TLS only
    pgvector:///database/table                  `?host=/var/run/postgresql`, `?service=name`, or as PGHOST says

The password comes, as with every client of PostgreSQL, from PGPASSWORD, ~/.pgpass or a service file.
"""

from penstock.sinks.pgvector.index import PgvectorIndex
from penstock.sinks.pgvector.sink import PgvectorSink

__all__ = ["PgvectorIndex", "PgvectorSink"]
