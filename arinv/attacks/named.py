"""The table of attacks that an evaluation chooses from by name.

An attack is a function (key, logits_fn, images, labels, *, eps, norm, **options) -> adversarial images and one row of
ATTACKS. The functions have further options of their own. AutoAttack returns more than images and is not in the table.
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

from arinv.attacks.apgd import apgd
from arinv.attacks.fab import fab
from arinv.attacks.pgd import fgsm, pgd
from arinv.attacks.square import square
from arinv.errors import UserError, unknown
from arinv.ops.inputs import keyword_options
from arinv.types import Array, ArrayLike, LogitsFn

# (key, logits_fn, images, labels) -> adversarial images
AttackFn = Callable[[Array, LogitsFn, ArrayLike, ArrayLike], Array]

# Options of an evaluation's config, of which an attack takes those that it has.
_SHARED_OPTIONS = ("num_steps", "step_size", "random_start")


class Attack(NamedTuple):
    """A row of the table of attacks.

    Attributes:
      function: (key, logits_fn, images, labels, *, eps, norm, **options) -> adversarial images within eps of the
        images and in [0, 1]; rows labeled -1 are unchanged.
      norms: names of the norms that it supports.
    """

    function: Callable[..., Array]
    norms: tuple[str, ...] = ("l1", "l2", "linf")


def _square(key, logits_fn, images, labels, *, eps, norm, num_steps):
    """Returns the images of `square` after num_steps queries."""
    return square(key, logits_fn, images, labels, eps=eps, norm=norm, num_queries=num_steps)


ATTACKS: dict[str, Attack] = {
    "apgd": Attack(apgd),
    "fab": Attack(fab),
    "fgsm": Attack(fgsm, norms=("l2", "linf")),
    "pgd": Attack(pgd, norms=("l2", "linf")),
    "square": Attack(_square),
}


def check_attack(*, name: str, norm: str) -> None:
    """Checks the name and the norm of an attack.

    Args:
      name: a key of ATTACKS.
      norm: norm of the ball, "l1", "l2" or "linf".

    Raises:
      UserError: unknown name, or a norm that the attack does not take.
    """
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    if norm not in ATTACKS[name].norms:
        others = ", ".join(other for other, row in ATTACKS.items() if norm in row.norms)
        raise UserError(
            f"attack {name!r} takes norm {', '.join(ATTACKS[name].norms)}; got {norm!r}"
            + (f", which {others} and AutoAttack take" if others else "")
        )


def make_attack(*, name: str = "pgd", eps: ArrayLike | float, norm: str, **options) -> AttackFn:
    """Returns an attack with its options.

    Args:
      name: a key of ATTACKS.
      eps: radius in units of images in [0, 1].
      norm: norm of the ball, one that the attack supports.
      **options: options of the attack; num_steps (queries of "square"), step_size and random_start are ignored where
        the attack has no such option.

    Returns:
      A `functools.partial` (key, logits_fn, images, labels) -> adversarial images; its `keywords` are the options.

    Raises:
      UserError: unknown name, norm or option, or an option without a default that is not given.
    """
    check_attack(name=name, norm=norm)
    function = ATTACKS[name].function
    allowed = keyword_options(function)
    for option in options:
        if option not in (*allowed, *_SHARED_OPTIONS):
            raise unknown(f"option of attack {name!r}", option, allowed)
    for option, default in allowed.items():
        if default is inspect.Parameter.empty and option not in ("eps", "norm", *options):
            raise UserError(f"attack {name!r} needs the option {option}")
    return functools.partial(function, eps=eps, norm=norm, **{n: v for n, v in options.items() if n in allowed})
