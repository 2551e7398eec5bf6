"""Puts finished evaluations side by side, of any tasks and runs, and the paper's figures beside them.

    Q=runs/quickstart
    python -m arinv --config=configs/report.py:evaluations=$Q/standard_evaluation+$Q/robust_evaluation \
        --workdir=runs/report
    python -m arinv --config=configs/report.py:evaluations=runs/table_a2/eps_1_evaluation+runs/mine/evaluation \
        --workdir=runs/report

Reads the results of evaluate, autoattack, high_resolution, compare_inversion, invert, one-vs-all anomaly detection,
style transfer, denoising, restoration, volume, truth_table and study (a row for each inverter, a column for each number
of a probe); seconds. Writes table.md, report.html, metrics.json and results.json.

Arguments:
  evaluations  workdirs of finished evaluations, or stages of experiments, joined by "+"
  table        of the paper, such as 1 or A2, whose figures are listed below; empty: none
  title        heading of the report
  smoke        changes nothing
"""

import os

from configs import arguments, tasks
from configs.paper import published


def get_config(arg=None):
    """Returns the config of the task."""
    args = arguments.parse(arg, evaluations="", table="", title="Evaluations side by side", smoke=False)
    workdirs = arguments.split(args.evaluations)
    entries = {f"evaluation{i}": workdir for i, workdir in enumerate(workdirs, start=1)}
    if args.table:
        arguments.choice("table", args.table, published.load()["tables"])
    return tasks.comparison(
        entries,
        title=args.title,
        text="",
        labels=dict(zip(entries, _labels(workdirs), strict=True)),
        published=published.table(args.table) if args.table else None,
    )


def _labels(workdirs):
    """Returns the paths without the folders that all share."""
    parts = [os.path.normpath(workdir).split(os.sep) for workdir in workdirs]
    shared = len(os.path.commonprefix([part[:-1] for part in parts]))
    return ["/".join(part[shared:]) for part in parts]
