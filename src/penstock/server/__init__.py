"""An index served over HTTP: search by text, images, vectors and examples, with a page for people.

    server  connections  limits             listening, slow clients, quotas
    authorization  keys  keys_file          who may do what
    access_log  audit  headers              ids, headers and lines of requests; who was refused
    app  compatibility  schemas  queries    the routes, and what a request may contain
    generations  batcher  search            the index and its models; from a query to hits

The event loop only waits: models, stores and files are worked on in threads.
"""
