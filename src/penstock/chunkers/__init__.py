"""Cut blocks into pieces that an embedder takes whole."""
