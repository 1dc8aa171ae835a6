"""What stands before a model's name to say how it is run."""

from __future__ import annotations

import os
import re

TORCH = "torch:"
"""Run the model on PyTorch. It is no part of the name that is kept with an index."""

INT8 = "int8:"
"""Make its large products in 8 bits. Its vectors are others, so it is part of the name."""

SPLADE = "splade:"
"""Take a masked-language model, which could be used otherwise, as a SPLADE model. It is part of the name."""

M3 = "m3:"
"""Make dense, sparse and late vectors in one pass, with a model in the layout of BGE-M3. It is part of the name."""


def named_prefix(model: str) -> str:
    """What stands before the colon, unless it is the path of a folder."""
    match = re.match(r"([a-z][a-z0-9+._-]*):(?!//)", model)
    return match[1] if match and not os.path.exists(model) else ""
