"""An index served over HTTP: search by words, images, vectors and likes, with a page for people.

    limits     who may ask, how much, how often, how long     shapes, asking   what a request may say
    engine     model and index, kept together, followed        searching        from a request to hits
    app        the routes                                      server           listens, drains, ends

The event loop only waits: models, stores and files are worked on in threads.
"""
