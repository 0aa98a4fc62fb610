"""How levels make up for labels that the LLM gives too freely.

LLMs have labels they fall back on (Zhao, Wallace, Feng, Klein, Singh, ICML 2021, "Calibrate before use"; Zhou et al.,
ICLR 2024, "Batch calibration"): what is not clearly anything gets the favourite. A level that learns such labels as
they come is sure of the favourite where it should ask, and asks where it found a rare label against the odds. So
levels learn by the logit-adjusted loss (Menon et al., ICLR 2021, "Long-tail learning via logit adjustment", section
4.2): while they learn, the logarithm of each label's share is added to its logit, and what they predict without it is
as if all labels were as frequent. That minimises the error averaged over labels, not over queries.

Shares are those of the labels they learn from, so nothing else is kept, and they count only within a bound: an LLM is
not believed to distort a label's share more than so many times, and what is beyond that is the stream's own.
"""

import numpy as np
from numpy.typing import NDArray


def excess(counts: NDArray[np.int64], most: float) -> NDArray[np.float64]:
    """Logarithm [labels] of how many times its even share each label has, between 1 / `most` and `most`.

    One row of each label is counted to those there are, so that few rows say little. `most` of 1 gives zeros.
    """
    told = counts + 1.0
    times: NDArray[np.float64] = np.log(np.clip(told * len(told) / told.sum(), 1 / most, most))
    return times
