"""Of how many rounds each of AutoAttack's attacks is made, and which models it can attack.

Source: Croce & Hein 2020 (AutoAttack), section 6; Croce & Hein 2021 for l1.
"""

from collections.abc import Callable, Sequence

from arinv.attacks.autoattack_batches import ATTACKS
from arinv.errors import UserError, unknown

_LEAST = 2
_LEAST_TARGETED = 4  # of apgd-t: its loss looks at the four largest logits
_CE_RESTARTS = {"l1": 5}  # 1 otherwise
_APGD_TARGETS = {"l1": 5}  # 9 otherwise, as for FAB


def rounds(
    attacks: Sequence[str] | str, *, norm: str, num_classes: int, num_targets: int, pieces: int
) -> dict[str, int]:
    """Returns the number of rounds of each attack: restarts, targets, or pieces of the search.

    Args:
      attacks: names from ATTACKS, or one name.
      norm: "l1", "l2" or "linf".
      num_classes: of the model.
      num_targets: classes to approach, as far as there are so many.
      pieces: of the Square Attack.

    Returns:
      Attack -> number, in the order of ATTACKS.

    Raises:
      UserError: an unknown attack, or too few classes.
    """
    attacks = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    for name in attacks:
        if name not in ATTACKS:
            raise unknown("attack", name, ATTACKS)
    check_num_classes(attacks, num_classes=num_classes, leave_out=lambda others: f"attacks={others}.")
    targets = min(num_targets, num_classes - 1)
    count = {
        "apgd-ce": _CE_RESTARTS.get(norm, 1),
        "apgd-t": min(targets, _APGD_TARGETS.get(norm, targets)),
        "fab-t": targets,
        "square": pieces,
    }
    return {name: count[name] for name in ATTACKS if name in attacks}


def check_num_classes(attacks: Sequence[str], *, num_classes: int, leave_out: Callable[[tuple[str, ...]], str]) -> None:
    """Checks that a model has the classes that attacks need.

    Args:
      attacks: names from ATTACKS.
      num_classes: of the model.
      leave_out: the attacks that are possible -> how a caller asks for only these, for the message.

    Raises:
      UserError: it has too few.
    """
    if num_classes < _LEAST:
        raise UserError(
            f"AutoAttack needs a model of at least {_LEAST} classes, this one has {num_classes}: there is no "
            "other class to lead an image to."
        )
    if num_classes < _LEAST_TARGETED and "apgd-t" in attacks:
        others = tuple(name for name in ATTACKS if name != "apgd-t" and (name in attacks or len(set(attacks)) == 1))
        raise UserError(
            f'the targeted DLR loss of "apgd-t" needs {_LEAST_TARGETED} classes, the model has {num_classes}; '
            f"leave it out: {leave_out(others)}"
        )
