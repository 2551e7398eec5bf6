"""Table A3: Table 8 class by class. With the --workdir and the arguments of Table 8 only the report is made.

    python -m arinv --config=configs/paper/table_a3.py:data_dir=/data/tfds --workdir=runs/table8
    python -m arinv --config=configs/paper/table_a3.py:scale=paper,dtype=bfloat16 --workdir=runs/table8

Arguments: scale, encoder, options, dataset, data_dir, eps, dtype and smoke of configs/paper/README.md (dataset is the
encoders'), and
  datasets                          whose classes are the normal ones in turn, joined by "+"
  standard_encoder, robust_encoder  trained classifiers, which are used instead of new ones

Stages: those of Table 8, with report_a3 for report.
"""

from configs.paper import setting, table8

_TEXT = "AUROC of one-vs-all anomaly detection, each class in turn the normal one."


def get_config(arg=None):
    """Returns the stages: those of Table 8, with another report."""
    args = table8.parse(arg)
    stages, entries = table8.stages(args)
    return setting.finish(args, stages, setting.report("A3", entries, text=_TEXT), name="report_a3")
