"""Random batches, the same for every variant."""

import numpy as np


def random_batch(batch: int, size: int, num_classes: int) -> dict[str, np.ndarray]:
    """Returns random images [B, size, size, 3] in [0, 1] with labels and mask."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.random((batch, size, size, 3), dtype=np.float32),
        "label": rng.integers(0, num_classes, batch).astype(np.int32),
        "mask": np.ones(batch, np.float32),
    }
