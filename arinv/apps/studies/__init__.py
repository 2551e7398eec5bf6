"""Studies of features: what an inverter makes of features that are perturbed, mixed, sampled or of changed images.

A probe is a pure function over a pair of callables, `encode` (images -> one feature) and `decode` (that feature ->
images). Sources: Dosovitskiy & Brox 2016, "Inverting visual representations with convolutional networks", section 5;
Dosovitskiy & Brox 2016, "Generating images with perceptual similarity metrics based on deep networks", section 4.
"""

from arinv.apps.studies.probes import PROBES, Options, Probe, Sheet

__all__ = ["PROBES", "Options", "Probe", "Sheet"]
