"""What stands before a model's name to say how it is run."""

from __future__ import annotations

TORCH = "torch:"
"""Run the model on PyTorch. It is no part of the name that is kept with an index."""


INT8 = "int8:"
"""Make its large products in 8 bits. Its vectors are others, so it is part of the name."""

SPLADE = "splade:"
"""Take a masked-language model, which could be used otherwise, as a SPLADE model. It is part of the name."""
