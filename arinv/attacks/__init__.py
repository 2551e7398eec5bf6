"""Adversarial attacks: functions of a key, a model's logits function, images and labels.

The files:

named.py       the table of attacks that configs name
rows.py        rows of a batch under attack: checks, keys, restarts, selection
objectives.py  what attacks increase: cross-entropy, difference of logits ratio, margin
pgd.py         PGD and FGSM
apgd.py        Auto-PGD, with adaptive steps
fab.py         FAB, the nearest misclassified image
square.py      Square, without gradients
autoattack/    AutoAttack, and checks of what it reports
"""

from arinv.attacks.apgd import apgd
from arinv.attacks.autoattack.checks import check_radius_zero, check_square_gain, inspect_model, reclassify
from arinv.attacks.autoattack.host_batches import make_buckets, margins
from arinv.attacks.autoattack.progress import AUTOATTACK, AttackRecord, AutoAttackResult, AutoAttackState, Progress
from arinv.attacks.autoattack.standard import autoattack
from arinv.attacks.fab import fab
from arinv.attacks.named import ATTACKS, Attack, check_attack, make_attack
from arinv.attacks.pgd import default_step_size, fgsm, pgd, projected_ascent
from arinv.attacks.square import square

__all__ = [
    "ATTACKS",
    "AUTOATTACK",
    "Attack",
    "AttackRecord",
    "AutoAttackResult",
    "AutoAttackState",
    "Progress",
    "apgd",
    "autoattack",
    "check_attack",
    "default_step_size",
    "fab",
    "fgsm",
    "inspect_model",
    "make_attack",
    "make_buckets",
    "margins",
    "pgd",
    "projected_ascent",
    "reclassify",
    "square",
    "check_square_gain",
    "check_radius_zero",
]
