"""Trains an encoder, standard or adversarially robust.

    python -m arinv --config=configs/classifier.py:encoder=resnet18,dataset=cifar10,eps=1.0 --workdir=runs/resnet18

Attack, method, schedule, augmentation and image transforms are those of the encoder's recipe (configs/encoders.py)
unless an argument or a field sets them. Differences from the recipe are printed, and are in results.json as
recipe_differences.

Arguments:
  encoder       alexnet, alexnet_small, caffenet, resnet18, resnet50, preact_resnet18, preact_resnet18_silu,
                resnet18_imagenet, resnet34_imagenet, resnet50_imagenet, resnet101_imagenet, wide_resnet50_2, vgg16,
                vgg16_bn, vgg19, wrn28_10, wrn28_10_silu, wrn34_10 or wrn70_16_silu
  options       of the encoder, such as width:16 or dense_width:512+head_side:1
  dataset       photos (in the package), cifar10, cats_vs_dogs, imagenet2012, celeb_a, lsun_church, tfds:NAME,
                folder:PATH, npz:PATH, blobs or volume:PATH
  classes       labels to keep, such as 151-293 or 3+5, renumbered from 0; empty: all
  extra         a second source of training images, half of every batch, such as npz:PATH
  data_dir      where TFDS datasets are; empty: their default
  on_bad_image  what to do about a damaged image of a folder: error or skip
  image_size    side in pixels; 0: the encoder's
  eps           radius of the attack in units of [0, 1] images; 0: standard training, -1: the recipe's
  norm          l2 or linf; empty: the recipe's
  recipe        pgd, fgsm, n_fgsm, trades, gairat or gair_rst; empty: the encoder's
  dtype         float32 or bfloat16
  smoke         two steps on a few images

Fields that are often set: num_epochs, batch_size, attack.num_steps, attack.step_size (0: 2.5 eps / num_steps),
attack_warmup_epochs (over which eps grows), ema_decay (of a moving average of the weights), watch.action (notice,
switch or ignore catastrophic overfitting), recipe.options.weighting (gairat: tanh, sigmoid or discrete),
optimizer.schedule.learning_rate, data.num_train and data.num_test (0: all images), data.label
(of a TFDS dataset the feature that is the label, such as attributes/Eyeglasses), log.profile_steps, steps_per_call.
"""

from configs import arguments, encoders, tasks


def get_config(arg=None, *, title="classifier", **defaults):
    """Returns the config of the task.

    Args:
      arg: see `arguments.parse`.
      title: shown beside the progress bar.
      **defaults: of arguments, where they differ (configs/recipes).
    """
    args = arguments.parse(arg, **arguments.ENCODER | defaults)
    return tasks.classifier(encoders.resolve(args), title=title)
