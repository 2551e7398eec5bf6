"""Evaluation of trained encoders and inverters: accuracies, image quality, AutoAttack, comparisons."""
