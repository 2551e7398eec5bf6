"""Inverse problems with a generator: restoration of degraded images by a search in its latent space.

Images are float32 [B, H, W, C] in [0, 1], volumes [D, H, W]; the networks are callables, rows independent. Source:
Generative Encoder, sections 3 to 5.
"""

from arinv.apps.restoration.attributes import STATISTICS, TruthTable, compare_attribute, make_rule
from arinv.apps.restoration.pores import Pores, compare_pores
from arinv.apps.restoration.solver import Solution, solve
from arinv.ops.degradations import OPERATORS, Operator, build_operator, image_keys
from arinv.ops.latents import draw_starts

__all__ = [
    "OPERATORS",
    "STATISTICS",
    "Operator",
    "Pores",
    "Solution",
    "TruthTable",
    "build_operator",
    "compare_attribute",
    "compare_pores",
    "draw_starts",
    "image_keys",
    "make_rule",
    "solve",
]
