"""Inverters that an experiment compares, by name."""

from ml_collections import ConfigDict

from arinv.errors import UserError
from arinv.experiment import measurement
from arinv.experiment.descriptions import check_trained_size
from arinv.experiment.run import Run
from arinv.experiment.trained import INVERTER, Trained


def check_inverters(config: ConfigDict) -> None:
    """Checks that config.inverters has a workdir under every name in config.order.

    Raises:
      UserError: a name without a workdir, or no name.
    """
    if not config.order or not all(config.inverters[name] for name in config.order):
        raise UserError("inverters needs the workdir of an inverter's training under every name")


def load_inverters(run: Run) -> dict[str, Trained]:
    """Returns the inverters of config.inverters (name -> workdir), in config.order.

    Raises:
      UserError: no usable checkpoint there, or images of another size.
    """
    config, inverters = run.config, {}
    for name in config.order:
        inverters[name] = run.load(config.inverters[name], kind=INVERTER)
        _check_size(run, name, inverters[name])
    layers = {name: inverter.layer for name, inverter in inverters.items()}
    if len(set(layers.values())) > 1:
        listed = ", ".join(f"{name} {layer}" for name, layer in layers.items())
        run.report(f"warning: the inverters are of different layers, which differ by themselves: {listed}")
    return inverters


def _check_size(run: Run, name: str, inverter: Trained) -> None:
    """Raises a UserError for an inverter of images of another size than the task's."""
    size = run.config.data.image_size
    inverter.check_side(size, "data.image_size")
    check_trained_size(inverter.description, size, run.resolve(run.config.inverters[name]))


def check_networks(run: Run) -> dict[str, Trained]:
    """Checks, before any stage runs, that every inverter exists, or is trained by an earlier stage.

    Returns:
      The inverters that exist, by name.

    Raises:
      UserError: one does not, or is another network, or that of a metric is no classifier.
    """
    networks = {name: run.check_network(run.config.inverters[name], kind=INVERTER) for name in run.config.order}
    if run.config.get("metrics"):
        measurement.check_inputs(run)
    return {name: network for name, network in networks.items() if network is not None}


def check_networks_of_size(run: Run) -> None:
    """Checks, before any stage runs, that every inverter exists, or is a stage, and takes images of this size.

    Raises:
      UserError: as `check_networks`, or one is for images of another size.
    """
    for name, inverter in check_networks(run).items():
        _check_size(run, name, inverter)
