"""Measures the robustness of a trained encoder by AutoAttack, standard version.

    python -m arinv --config=configs/autoattack.py:checkpoint=runs/linf,norm=linf,eps=8/255 --workdir=runs/autoattack

Writes the accuracy after each attack with its exact 95 % interval, every reason to doubt it, the adversarial images,
and images of the hardest survivors and of the smallest perturbations. A run that was killed resumes.

Arguments:
  checkpoint   workdir of a trained classifier or inverter, or zoo:NAME (`arinv zoo` lists them)
  encoder      name of its encoder, which decides an empty norm, eps=-1 and image_size=0
  dataset, data_dir, on_bad_image, image_size, eps, dtype, smoke: of configs/classifier.py
  norm         l1, l2 or linf

Fields that are often set: batch_size, data.num_test (0: all), attack.attacks, attack.num_queries (of Square),
attack.decide (0.05: images in random order until the exact 95 % interval has a half-width of 0.05; 0: all images).
"""

from configs import arguments, encoders, tasks


def get_config(arg=None):
    """Returns the config of the task."""
    args = arguments.parse(arg, **arguments.EVALUATION, checkpoint="")
    return tasks.autoattack(encoders.resolve(args), args.checkpoint)
