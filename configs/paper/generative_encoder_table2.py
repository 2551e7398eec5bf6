"""Table 2 of the Generative Encoder: reconstructions of faces by an autoencoder, AEGAN, invertGAN and the search.

    python -m arinv --config=configs/paper/generative_encoder_table2.py:data_dir=/data/tfds --workdir=runs/ge2
    python -m arinv --config=configs/paper/generative_encoder_table2.py:scale=paper --workdir=runs/ge2_paper

Generative Imaging and Image Processing via Generative Encoder (Ong and Yang). Beside the paper's methods stands the
search that compares features of a robust encoder. FID is of that encoder's features, not Inception's. scale=paper:
CelebA at 128 px (tfds:celeb_a), all its 19,962 test images, a robust classifier that is trained for one of its
attributes, an accelerator with 64 GiB of memory beside it; scale=small: a class of CIFAR-10 at 32 px, narrow networks,
64 test images. Recorded runs, with the GAN of the zoo and of cats at 64 px: arinv/apps/restoration/README.md.

Arguments: scale, data_dir, dtype and smoke of configs/paper/README.md, and
  networks, options  of the GAN: progressive, began or dcgan
  gan                workdir of a GAN, which is used instead of a new one
  encoder            workdir or zoo:NAME of the robust encoder, of image_size unless it is the default; empty:
                     the scale's, of other images than the paper's none
  metric_encoder     likewise of the classifier whose features FID compares
  operator, operator_options  what the images are degraded by (configs/restoration.py); the paper's table has identity
  dataset, classes   of configs/restoration.py: the images, and labels to keep (empty: all), instead of the scale's
  image_size         side of the images, in pixels; 0: the scale's

Stages: robust_encoder (scale=paper), those of the GAN, autoencoder, aegan, restoration, report.
"""

from configs import autoencoder, restoration
from configs.paper import inverse_problems, setting

_TEXT = "Test images were restored by every method; all searches begin at the same latents of one generator."


def get_config(arg=None):
    """Returns the stages: a robust encoder of faces, a GAN, an autoencoder, an AEGAN, the restoration, the report."""
    args = inverse_problems.parse(arg, operator="identity", operator_options="")
    stages = inverse_problems.robust_encoder(args)
    trainings, generator = restoration.gan_of(args)
    stages |= trainings
    stages["autoencoder"] = autoencoder.task(args, title="autoencoder", gan=generator)
    stages["aegan"] = inverse_problems.aegan(args)
    stages["restoration"] = restoration.task(args, generator, "stage:autoencoder", aegan="stage:aegan")
    rows = ("degraded", *stages["restoration"].methods)[args.operator == "identity" :]
    report = setting.report("Generative Encoder 2", {"restoration": "stage:restoration"}, text=_TEXT, rows=rows)
    return inverse_problems.finish(args, stages, report, measured=("restoration",))
