"""How many continuous Gaussian variates lie far out, of fresh keys, beside the normal law.

python bench/gaussian_tail.py prints a line for each type and distance: the count, what is due, and their
difference in standard errors. The default is 3 * 2^30 variates of each type, some minutes.
"""

import argparse
import math

import numpy as np

from fedsec import noise

PIECE = 2**22
DEVIATIONS = (4.5, 5.0, 5.5, 6.0)


def far_out(dtype, pieces):
    """Variates beyond each distance, of `pieces` calls."""
    counts = dict.fromkeys(DEVIATIONS, 0)
    for _ in range(pieces):
        size = np.abs(noise.gaussian(PIECE, 1.0, dtype))
        size = size[size > DEVIATIONS[0]]
        for deviations in DEVIATIONS:
            counts[deviations] += np.count_nonzero(size > deviations)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pieces", type=int, default=768, help=f"calls of {PIECE} variates")
    pieces = parser.parse_args().pieces
    for dtype in (np.float64, np.float32):
        for deviations, count in far_out(dtype, pieces).items():
            due = pieces * PIECE * math.erfc(deviations / math.sqrt(2.0))
            off = (count - due) / math.sqrt(due)
            print(f"{np.dtype(dtype)}, beyond {deviations}: {count}, due {due:.1f}, off by {off:+.2f}")


if __name__ == "__main__":
    main()
