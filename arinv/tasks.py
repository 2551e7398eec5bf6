"""The table of tasks that a config can name: name -> module.

A task's module has check(config), which raises for mistakes that need no data, and run(run: Run), which returns the
results. Optional are check_inputs(run), which checks earlier runs and data before any stage runs, and
SINGLE_PROCESS = True for tasks that run in a single process.
"""

from arinv.apps.anomaly import detector, one_vs_all, overview, score_images
from arinv.apps.denoising import denoise_images, evaluate_denoising
from arinv.apps.evaluation import autoattack, comparison, evaluate
from arinv.apps.inversion import compare_inversion, high_resolution, invert_images
from arinv.apps.restoration import restoration, restore_images, truth_table, volume
from arinv.apps.studies import study
from arinv.apps.style import evaluate_style, stylize_images
from arinv.apps.weights import export_torch, import_torch
from arinv.train import aegan, autoencoder, class_inverters, classifier, denoiser, gan, inverter

TASKS = {
    "one_vs_all": one_vs_all,
    "overview": overview,
    "aegan": aegan,
    "autoattack": autoattack,
    "autoencoder": autoencoder,
    "class_inverters": class_inverters,
    "classifier": classifier,
    "detector": detector,
    "gan": gan,
    "inverter": inverter,
    "evaluate": evaluate,
    "comparison": comparison,
    "score": score_images,
    "import_torch": import_torch,
    "export_torch": export_torch,
    "high_resolution": high_resolution,
    "invert": invert_images,
    "compare_inversion": compare_inversion,
    "denoiser": denoiser,
    "evaluate_denoising": evaluate_denoising,
    "denoise": denoise_images,
    "restoration": restoration,
    "restore": restore_images,
    "study": study,
    "stylize": stylize_images,
    "truth_table": truth_table,
    "volume": volume,
    "evaluate_style": evaluate_style,
}
