"""Adversarial attacks: functions of a key, a model's logits function, images and labels."""

from arinv.attacks.apgd import apgd
from arinv.attacks.autoattack.checks import check_radius_zero, check_square_gain, inspect_model, reclassify
from arinv.attacks.autoattack.host_batches import make_buckets, margins
from arinv.attacks.autoattack.progress import AUTOATTACK, AttackRecord, AutoAttackResult, AutoAttackState, Progress
from arinv.attacks.autoattack.standard import autoattack
from arinv.attacks.fab import fab
from arinv.attacks.named import ATTACKS, Attack, check_attack, make_attack
from arinv.attacks.pgd import fgsm, pgd, projected_ascent
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
