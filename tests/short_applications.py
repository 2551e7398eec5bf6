"""Applications that run in several processes, on untrained networks, for tests that compare their results.

    python -m arinv --config=tests/short_applications.py:folder=untrained --workdir=runs/short

The folder has the workdirs of an encoder, an inverter and a GAN. No number of images is a multiple of the batch.
"""

from configs import anomaly, arguments, detector, high_resolution, tasks


def get_config(arg=None):
    """Returns the stages: a one-vs-all evaluation with ADGAN, its report, a detector, enlarged images."""
    folder = arguments.parse(arg, folder="").folder
    common = "smoke=True,image_size=16"
    encoders = ",".join(f"{name}_encoder={folder}/robust_encoder" for name in ("standard", "robust"))
    evaluation = anomaly.get_config(
        f"{common},dataset=photos,classes=3,adgan=True,{encoders}"
    ).stages.standard_evaluation
    evaluation.inverters, evaluation.gans = {"class3": f"{folder}/robust_inverter"}, {"class3": f"{folder}/gan"}
    evaluation.num_normal, evaluation.num_anomalous = 2, 9
    report = tasks.comparison({"robust": "stage:evaluation"}, title="Report", text="")
    report.task, report.num_classes_shown = "overview", 1
    encoder = f"encoder_checkpoint={folder}/robust_encoder"
    detection = detector.get_config(f"{common},dataset=photos,{encoder}").stages.detector
    detection.inverter = f"{folder}/robust_inverter"
    detection.data.num_train, detection.data.num_test = 18, 9
    inverters = ",".join(f"{name}_inverter={folder}/robust_inverter" for name in ("standard", "robust"))
    scales = high_resolution.get_config(f"{common},metrics=psnr,{inverters}").stages.scales
    scales.inverters, scales.order = {"robust": f"{folder}/robust_inverter"}, ("robust",)
    scales.data.num_test = 9
    for stage in (evaluation, detection, scales):
        stage.batch_size = 8
    return tasks.experiment({"evaluation": evaluation, "report": report, "detector": detection, "scales": scales})
