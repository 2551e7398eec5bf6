"""Table A1: Table 5 at all scales. With the --workdir and the arguments of Table 5 only the report is made.

    python -m arinv --config=configs/paper/table_a1.py:data_dir=/data/tfds --workdir=runs/table5
    python -m arinv --config=configs/paper/table_a1.py:scale=paper,lpips=alexnet.pth,dtype=bfloat16 \
        --workdir=runs/table5

Arguments: scale, encoder, options, dataset, data_dir, eps, metrics, lpips, dtype and smoke of configs/paper/README.md,
and
  standard_inverter, robust_inverter  trained inverters, which are used instead of new ones (runs/table1 has them:
                                      runs/table1/standard_gan_inverter)
  standard_encoder, robust_encoder    trained classifiers, which are used instead of new ones
  loss                                of the inverters: pixel, feature, gan or pixel_balanced
  compare                             enlarged, or original: reconstructions are reduced to the original size

Stages: standard_encoder, standard_inverter, robust_encoder, robust_inverter, scales, report_a1.
"""

from configs.paper import setting, table5

_TEXT = "Images enlarged bilinearly, and inverted by generators that were trained at the original size."


def get_config(arg=None):
    """Returns the stages: those of Table 5, with another report."""
    args = table5.parse(arg)
    report = setting.report("A1", {"scales": "stage:scales"}, text=_TEXT)
    return setting.finish(args, table5.stages(args), report, name="report_a1")
