"""What happens to the gradient of a recurrence on its way back through time."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def profile_over_time(rows: pd.DataFrame) -> NDArray[np.float64]:
    """`backprop_norm` at each time step of the first recurrent layer at step 0, the norm over its
    gates together; empty without one.

    Args:
        rows: of `signals_over_time.parquet`.
    """
    start = rows[(rows["step"] == 0) & (rows["layer"] == rows["layer"].min())]
    squares = start["backprop_norm"].astype(np.float64) ** 2
    summed: NDArray[np.float64] = squares.groupby(start["time"]).sum(min_count=1).to_numpy()
    return np.sqrt(summed[np.isfinite(summed)])


def farthest(*ratios: float) -> float:
    """The ratio that says most: the one farthest from 1 in logarithm; nan where none is known."""
    known = [ratio for ratio in ratios if not math.isnan(ratio)]
    return max(known, key=_distance, default=math.nan)


def _distance(ratio: float) -> float:
    return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf
