"""What all the arithmetic of this room shares: the type of its arrays and the price of a rounding."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]

UNIT = 2.0**-52  # twice the error of one rounded operation
ROUNDING = 2.0**-50  # eight times the unit round-off: charged for each term of a short sum
