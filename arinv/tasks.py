"""The table of tasks that a config can name: name -> `Task`."""

from arinv.apps.anomaly import detector, one_vs_all, overview, score_images
from arinv.apps.denoising import denoise_images, evaluate_denoising
from arinv.apps.evaluation import autoattack, comparison, evaluate
from arinv.apps.inversion import compare_inversion, high_resolution, invert_images
from arinv.apps.restoration import restoration, restore_images, truth_table, volume
from arinv.apps.studies import study
from arinv.apps.style import evaluate_style, stylize_images
from arinv.apps.weights import export_torch, import_torch
from arinv.experiment.task import Task
from arinv.experiment.trained import AUTOENCODER, CLASSIFIER, DENOISER, GAN, INVERTER
from arinv.train import aegan, autoencoder, class_inverters, classifier, denoiser, gan, inverter

TASKS = {
    # Trainings.
    "classifier": Task(classifier, kind=CLASSIFIER),
    "inverter": Task(inverter, kind=INVERTER),
    "class_inverters": Task(class_inverters),
    "denoiser": Task(denoiser, kind=DENOISER),
    "gan": Task(gan, kind=GAN),
    "autoencoder": Task(autoencoder, kind=AUTOENCODER),
    "aegan": Task(aegan, kind=AUTOENCODER),
    # Anomaly detection.
    "detector": Task(detector, is_independent=True),
    "score": Task(score_images, is_independent=True, reads_paths=True, single_process=True),
    "one_vs_all": Task(one_vs_all, is_independent=True),
    "overview": Task(overview),
    # Denoising.
    "denoise": Task(denoise_images, reads_paths=True, single_process=True),
    "evaluate_denoising": Task(evaluate_denoising, single_process=True),
    # Evaluation.
    "evaluate": Task(evaluate),
    "autoattack": Task(autoattack, is_independent=True, single_process=True),
    "comparison": Task(comparison),
    # Inversion.
    "invert": Task(invert_images, reads_paths=True, single_process=True),
    "high_resolution": Task(high_resolution, is_independent=True),
    "compare_inversion": Task(compare_inversion, is_independent=True, single_process=True),
    # Restoration.
    "restore": Task(restore_images, is_independent=True, reads_paths=True, single_process=True),
    "restoration": Task(restoration, is_independent=True, single_process=True),
    "truth_table": Task(truth_table, is_independent=True, single_process=True),
    "volume": Task(volume, is_independent=True, single_process=True),
    # Studies.
    "study": Task(study, is_independent=True, single_process=True),
    # Style transfer.
    "stylize": Task(stylize_images, is_independent=True, single_process=True),
    "evaluate_style": Task(evaluate_style, is_independent=True, single_process=True),
    # Weights.
    "import_torch": Task(import_torch, kind=import_torch.kind),
    "export_torch": Task(export_torch),
}
