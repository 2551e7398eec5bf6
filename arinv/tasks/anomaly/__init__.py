"""Anomaly detection by latent search: one class against all, detectors, and scores of new pictures."""
