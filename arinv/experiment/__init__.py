"""Experiments: everything that the runs of all tasks share.

The files, in the order in which a run passes them:

stages.py        the stages of an experiment: checked before any work, run in order, skipped where complete
task.py          `Task`: what experiments and plans read of a task
lock.py          one run at a time in a workdir
workdirs.py      config, results and checkpoints in a workdir, references to others, runs inside and beside it
references.py    what a config names: earlier runs, files and images, checked and compared at a resume
fields.py        checks of the fields that tasks share, and what they stand for
run.py           `Run`: a task with its config and workdir; it opens data, loads networks, caches and finishes
loading.py       `load`, and networks rebuilt from their descriptions
descriptions.py  what a trained network is, and whether it fits a config, images or classes
checkpoint.py    checkpoints of a training, through Orbax
exported.py      a network as a single file
trained.py       `Trained`: a network that is applied to images
state.py         the state of a training: networks, optimizers, step, moving average
cache.py         `ResultCache`: finished results that survive a kill; fingerprints
writer.py        metrics while a run works: JSONL, TensorBoard, progress bars
measurement.py   metrics of reconstructions and of samples, and the networks that they compare with
figures.py       labeled grids of images, and curves
report.py        table.md and report.html
output_files.py  atomic writes: text, JSON, CSV, PNG and arrays
"""
