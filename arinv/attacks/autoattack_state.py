"""How far an AutoAttack has come, as arrays that can be saved, and what it returns.

An attack is made of rounds: a restart, a target class, or some hundred queries. A round has a queue of the
images that were still classified rightly at its start, and goes through it batch by batch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from arinv.errors import UserError


@dataclasses.dataclass
class AutoAttackState:
    """How far an AutoAttack has come: NumPy arrays, numbers and text.

    Attributes:
      settings: what a state has to be continued with, as text.
      messages: what the checks of the model said.
      classes: int32 [N, R], the classes of the largest logits of the images, the prediction first.
      robust: bool [N], whether no attack has succeeded so far; False where the clean image is misclassified, and
        in padding.
      adversarial: float32 [N, H, W, C], the image where none has succeeded; while the Square Attack runs, its
        best so far.
      predictions: int32 [N], the classes of `adversarial`.
      margins: float32 [N], what the Square Attack has reached.
      attack: number of the current attack; that of all when done.
      round: number of the current round.
      queue: int64 [M], the images of this round.
      position: how many of them are done.
      accuracies: float64 [A], the robust accuracy after each attack, NaN where it is to come.
      seconds: float64 [A], spent in each, compilation included.
      forward_passes: int64 [A], number of images, padding included, that went through the model.
      backward_passes: int64 [A], likewise.
    """

    settings: str
    messages: list[str]
    classes: np.ndarray
    robust: np.ndarray
    adversarial: np.ndarray
    predictions: np.ndarray
    margins: np.ndarray
    attack: int
    round: int
    queue: np.ndarray
    position: int
    accuracies: np.ndarray
    seconds: np.ndarray
    forward_passes: np.ndarray
    backward_passes: np.ndarray

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the state as arrays for `numpy.savez`; those that change later are copies."""
        arrays = {name: np.array(value) for name, value in vars(self).items()}
        return arrays | {"messages": np.array(self.messages, dtype=np.str_)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "AutoAttackState":
        """Returns the state that `to_arrays` gave.

        Args:
          arrays: such as `numpy.load` returns.

        Raises:
          UserError: arrays of something else.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in arrays]:
            raise UserError(f"this is not the state of an AutoAttack: it lacks {', '.join(missing)}.")
        values = {name: np.array(arrays[name]) for name in names}
        values |= {name: int(values[name]) for name in ("attack", "round", "position")}
        return cls(**values | {"settings": str(values["settings"]), "messages": values["messages"].tolist()})

    def copy(self) -> "AutoAttackState":
        """Returns a state of its own."""
        return self.from_arrays(self.to_arrays())


@dataclasses.dataclass(frozen=True)
class AttackRecord:
    """What one of the attacks did.

    Attributes:
      robust_accuracy: after it and those before it, in 0 to 1.
      seconds: that it took, compilation included, and all parts of an interrupted run.
      forward_passes: number of images, padding included, that went through the model.
      backward_passes: likewise.
    """

    robust_accuracy: float
    seconds: float
    forward_passes: int
    backward_passes: int


@dataclasses.dataclass(frozen=True)
class AutoAttackResult:
    """What AutoAttack found.

    Attributes:
      adversarial: float32 [N, H, W, C] in [0, 1], the image itself where no attack succeeded.
      robust: bool [N], classified rightly and broken by no attack; False in padding.
      clean: bool [N], classified rightly without attack; False in padding.
      predictions: int32 [N], the classes of `adversarial`.
      clean_accuracy: in 0 to 1, padding left out.
      robust_accuracy: likewise.
      per_attack: name -> record, in the order in which they ran.
      messages: why the figure may mislead; empty is good.
    """

    adversarial: np.ndarray
    robust: np.ndarray
    clean: np.ndarray
    predictions: np.ndarray
    clean_accuracy: float
    robust_accuracy: float
    per_attack: Mapping[str, AttackRecord]
    messages: list[str]


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where an AutoAttack is, after a batch.

    Attributes:
      attack: its name.
      round: number of the restart, target or piece of the search, from 1.
      rounds: how many there are.
      done: number of images of this round that are done.
      total: number of images of this round.
      robust_accuracy: so far, in 0 to 1.
      passes: of the model so far, forwards and backwards.
      passes_left: at most this many are to come: if no image that still stands is broken.
    """

    attack: str
    round: int
    rounds: int
    done: int
    total: int
    robust_accuracy: float
    passes: int
    passes_left: int
