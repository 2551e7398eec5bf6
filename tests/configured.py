"""Configs with overrides of their fields, written as on the command line."""

from ml_collections import ConfigDict

from arinv import command_line


def configure(module, text: str) -> ConfigDict:
    """Returns the config of a module with `get_config`.

    Args:
      module: a config file, imported.
      text: arguments and overrides, such as "smoke=True,eps=1 --config.stages.encoder.num_epochs=2 --config.seed=1".
    """
    arguments, *overrides = text.split(" --config.")
    config = module.get_config(arguments)
    for override in overrides:
        command_line.override(config, *override.split("=", 1))
    return config
