"""Training batches from two sources at once, such as labelled and pseudo-labelled images."""

from typing import Any

import numpy as np

from arinv.data.batches import Batch, TrainBatches


class MixedBatches:
    """Endless iterator: each batch holds a batch of the first source and after it one of the second.

    An epoch is as many examples as the first source has, of both together.
    """

    def __init__(self, first: TrainBatches, second: TrainBatches, *, batch_size: int):
        """Takes the iterators over both sources, and the global size of their batches together."""
        self._parts = {"first": first, "second": second}
        self.steps_per_epoch = max(1, first.num_examples // batch_size)

    def __iter__(self) -> "MixedBatches":
        return self

    def __next__(self) -> Batch:
        first, second = (next(part) for part in self._parts.values())
        return {name: np.concatenate([first[name], second[name]]) for name in first}

    def get_state(self) -> dict[str, Any]:
        """Returns where the iterators stand, as plain JSON values."""
        return {name: part.get_state() for name, part in self._parts.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to the batch at which `get_state` was called.

        Raises:
          UserError: the state is of another seed, batch size or data set.
        """
        for name, part in self._parts.items():
            part.set_state(state.get(name, {}))

    def close(self) -> None:
        """Ends what decodes ahead."""
        for part in self._parts.values():
            part.close()
