"""Types of the router's arrays."""

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]  # (texts, dimensions), rows of length 1
Floats = npt.NDArray[np.float64]
TokenIds = npt.NDArray[np.int32]  # (tokens,)
Indices = npt.NDArray[np.int64]  # places in another array
