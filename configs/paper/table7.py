"""Table 7: generators of standard and robust features against optimization of the pixels (RI).

    python -m arinv --config=configs/paper/table7.py:data_dir=/data/tfds --workdir=runs/table7
    python -m arinv --config=configs/paper/table7.py:scale=paper,lpips=alexnet.pth,dtype=bfloat16 --workdir=runs/table7

DeePSiM is a published row, and with deepsim=true a measured one beside it: its loss on conv5, at scale=paper of
CaffeNet with the published generator at the 224 px of this table (the published row: 227 px), at scale=small of the
standard encoder with its own generator, pixels and features weighted more. scale=paper: AlexNet on ImageNet, pixel,
feature and GAN losses, 10,000 steps of RI; scale=small: alexnet_small on CIFAR-10, the loss pixel_balanced, 2,000 steps
on 64 images.

Arguments: scale, encoder, options, dataset, data_dir, eps, metrics, lpips, dtype and smoke of configs/paper/README.md,
and
  standard_inverter, robust_inverter  trained inverters, which are used instead of new ones (runs/table1 has them:
                                      runs/table1/standard_gan_inverter)
  standard_encoder, robust_encoder    trained classifiers, which are used instead of new ones
  loss                                of the inverters: pixel, feature, gan or pixel_balanced
  deepsim                             true: DeePSiM is trained as well

Stages: standard_encoder, standard_inverter, robust_encoder, robust_inverter, deepsim_encoder and deepsim_inverter with
deepsim=true, comparison, report. Fields that are often set: those of configs/compare_inversion.py,
stages.comparison.data.num_test (64) first.
"""

from ml_collections import ConfigDict

from configs import compare_inversion, tasks
from configs.paper import setting

_PAPER = {**setting.ALEXNET, "loss": "gan"}
_SMALL = {"loss": "pixel_balanced"}
_TEXT = "Reconstructions by trained generators, and by a search for the image whose features are the given ones."


def get_config(arg=None):
    """Returns the stages: encoders and inverters that do not exist yet, the comparison, the report."""
    inputs = {**setting.PAIR, **setting.INVERTERS, "loss": "", "deepsim": False}
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, **inputs)
    stages = compare_inversion.stages(args)
    if args.deepsim:
        stages = _with_deepsim(args, stages)
    return setting.finish(args, stages, setting.report("7", {"comparison": "stage:comparison"}, text=_TEXT))


def _with_deepsim(args, stages):
    """Returns the stages with DeePSiM among the inverters of the comparison."""
    comparison = stages.pop("comparison")
    own = ConfigDict({**args.to_dict(), "eps": 0.0})
    checkpoint = args.standard_encoder or "stage:standard_encoder"
    if args.scale == "paper":
        own.encoder, own.options, own.recipe, checkpoint = "caffenet", "", "", "stage:deepsim_encoder"
    if checkpoint == "stage:deepsim_encoder" or not (args.standard_encoder or "standard_encoder" in stages):
        checkpoint, stages["deepsim_encoder"] = (
            "stage:deepsim_encoder",
            tasks.classifier(own, title="encoder of DeePSiM"),
        )
    own.layer = "conv5" if args.scale == "paper" else args.layer
    inverter = tasks.inverter(own, checkpoint, title="DeePSiM inverter", loss_name="deepsim")
    inverter.encoder.generator = setting.deepsim_generator(own.encoder, own.layer, inverter.data.image_size)
    inverter.loss.update(setting.deepsim_weights(own))
    comparison.inverters["DeePSiM"] = "stage:deepsim_inverter"
    comparison.order = (*comparison.order, "DeePSiM")
    return {**stages, "deepsim_inverter": inverter, "comparison": comparison}
