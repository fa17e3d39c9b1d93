"""The extended binary Golay code: 2,048 patterns of signs that nothing mistakes for one another.

Theory. The stand-ins write a number 0..2047 into 24 places of a vector as +1 and -1 and read it back with a matched
filter: the product with its own pattern is 24, with any other at most 8, because two words of the code differ in 8, 12,
16 or 24 places. A word is the product of two polynomials over GF(2), the number's 11 bits and the generator, and a
parity bit (MacWilliams and Sloane, The Theory of Error-Correcting Codes, chapter 2).
"""

import numpy as np
from numpy.typing import NDArray

LENGTH = 24
NUMBERS = 2_048
_BITS = 11
_GENERATOR = (1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1)
"""1 + x^2 + x^4 + x^5 + x^6 + x^10 + x^11."""


def _rows() -> NDArray[np.int64]:
    """Return the words of the numbers 1, 2, 4 … 1024 without parity, shape (11, 23)."""
    rows = np.zeros((_BITS, LENGTH - 1), np.int64)
    for shift in range(_BITS):
        rows[shift, shift : shift + len(_GENERATOR)] = _GENERATOR
    return rows


def _patterns() -> NDArray[np.float32]:
    bits = np.arange(NUMBERS)[:, None] >> np.arange(_BITS) & 1
    words = bits @ _rows() % 2
    parity = words.sum(axis=1, keepdims=True) % 2
    return (1 - 2 * np.concatenate([words, parity], axis=1)).astype(np.float32)


PATTERNS = _patterns()
"""The pattern of each number, +1 or -1, shape (2048, 24); number 0 is all +1."""
