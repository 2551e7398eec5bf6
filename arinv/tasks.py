"""The tasks that a config can ask for, by name: each a module with validate(config) and run(config, workdir).

Where it has check_inputs(config, workdir, stages), that checks earlier runs and data before any stage of an experiment.
"""

from arinv.apps.anomaly import detector, one_vs_all, overview, score
from arinv.apps.denoising import denoise, evaluate_denoising
from arinv.apps.evaluation import autoattack, comparison, evaluate
from arinv.apps.inversion import compare_inversion, high_resolution, invert
from arinv.apps.style import evaluate_style, stylize
from arinv.apps.weights import export_torch, import_torch
from arinv.train import classifier, denoiser, inverter

TASKS = {
    "one_vs_all": one_vs_all,
    "overview": overview,
    "autoattack": autoattack,
    "classifier": classifier,
    "detector": detector,
    "inverter": inverter,
    "evaluate": evaluate,
    "comparison": comparison,
    "score": score,
    "import_torch": import_torch,
    "export_torch": export_torch,
    "high_resolution": high_resolution,
    "invert": invert,
    "compare_inversion": compare_inversion,
    "denoiser": denoiser,
    "evaluate_denoising": evaluate_denoising,
    "denoise": denoise,
    "stylize": stylize,
    "evaluate_style": evaluate_style,
}
