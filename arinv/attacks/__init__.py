"""Adversarial attacks: functions of a key, a model's logits function, images and labels."""

from arinv.attacks.pgd import pgd, projected_ascent

__all__ = ["pgd", "projected_ascent"]
