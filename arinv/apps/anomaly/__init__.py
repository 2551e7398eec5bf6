"""Anomaly detection by an inverter of one class, whose reconstructions of other images are worse.

Images are float32 [B, H, W, C] in [0, 1]; the networks are the callables `features_fn` (images -> named features) and
`decode_fn` (a feature -> images), in evaluation mode, rows independent. Scores are float32 [B], higher for images that
are less like the normal ones. Source: Rojas-Gomez et al. 2022, sections 3.3 and A2.
"""

from arinv.apps.anomaly.adgan import AdganResult, adgan_search
from arinv.apps.anomaly.latent_search import SearchResult, latent_search
from arinv.apps.anomaly.nearest_neighbors import feature_rows, nearest_neighbor_distances
from arinv.apps.anomaly.scores import (
    Calibration,
    HeatMaps,
    amortized_scores,
    attack_scores,
    best_f1_threshold,
    calibrate,
    fixed_reconstruction_scores,
    heat_maps,
    quantile_threshold,
    reconstruction_terms,
)

__all__ = [
    "AdganResult",
    "Calibration",
    "HeatMaps",
    "SearchResult",
    "adgan_search",
    "amortized_scores",
    "attack_scores",
    "best_f1_threshold",
    "calibrate",
    "feature_rows",
    "heat_maps",
    "fixed_reconstruction_scores",
    "latent_search",
    "nearest_neighbor_distances",
    "quantile_threshold",
    "reconstruction_terms",
]
