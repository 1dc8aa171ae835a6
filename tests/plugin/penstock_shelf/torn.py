"""A module that cannot be imported."""

raise OSError("libtorn.so.1: cannot open shared object file")
