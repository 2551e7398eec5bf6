"""The tasks that a config can ask for, by name: each a module with validate(config) and run(config, workdir).

Where it has check_inputs(config, workdir, stages), that checks earlier runs and data before any stage of an experiment.
"""

from arinv.tasks import autoattack, classifier, evaluation, export_torch, import_torch, inverter, report
from arinv.tasks.anomaly import detector, score
from arinv.tasks.anomaly import one_vs_all as anomaly
from arinv.tasks.anomaly import report as anomaly_report
from arinv.tasks.denoising import denoise, denoiser
from arinv.tasks.denoising import evaluation as denoising_evaluation
from arinv.tasks.inversion import comparison as inversion_comparison
from arinv.tasks.inversion import high_resolution, invert
from arinv.tasks.style import evaluation as style_evaluation
from arinv.tasks.style import stylization

TASKS = {
    "anomaly": anomaly,
    "anomaly_report": anomaly_report,
    "autoattack": autoattack,
    "classifier": classifier,
    "detector": detector,
    "inverter": inverter,
    "evaluation": evaluation,
    "report": report,
    "score": score,
    "import_torch": import_torch,
    "export_torch": export_torch,
    "high_resolution": high_resolution,
    "invert": invert,
    "inversion_comparison": inversion_comparison,
    "denoiser": denoiser,
    "denoising_evaluation": denoising_evaluation,
    "denoise": denoise,
    "stylization": stylization,
    "style_evaluation": style_evaluation,
}
