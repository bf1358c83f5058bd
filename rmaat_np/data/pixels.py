"""Pictures as tokens, for CIFAR-10 and Pathfinder alike: 32 x 32 grey values, row by row, one pixel one token."""

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .dataset import check_tokens

SIZE = 32  # pixels of a side
LENGTH = SIZE * SIZE
VOCAB_SIZE = 257  # a grey value 0 .. 255, + 1; 0 is padding
_SHADES = np.array(list(" .:-=+*#%@"))  # dark to bright


def decode(tokens: ArrayLike) -> str:
    """The picture as lines of 32 characters, one for each row, from ' ' (black, and padding) to '@' (white)."""
    grey_values = np.maximum(check_tokens(tokens, VOCAB_SIZE) - 1, 0)
    if grey_values.size % SIZE or not 0 < grey_values.size <= LENGTH:
        raise InputError(f"{grey_values.size} tokens cannot be decoded; a picture has {LENGTH}, in rows of {SIZE}")
    shades = grey_values.reshape(-1, SIZE) * len(_SHADES) // 256
    return "\n".join("".join(row) for row in _SHADES[shades])
