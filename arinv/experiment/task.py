"""`Task`: a task that a config can name, and its facts that experiments and plans read; arinv/tasks.py has them all."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
      module: check(config) raises for mistakes that need no data, run(run) returns the results, and check_inputs(run),
        which is optional, checks earlier runs and data before any stage runs. Of trainings it also has build(run,
        frozen, info, steps_per_epoch), and load_frozen(run) and plan_frozen(run) where a network is trained on another
        one (see `training.train`); of tasks that are several trainings, split(workdir, config).
      kind: kind of the network that it saves in its workdir, or config -> kind; empty for none.
      is_independent: whether images do not depend on each other, so that batch_size changes no result.
      reads_paths: whether data.name is a file or folder of images without the prefix "folder:".
      single_process: whether it runs in one process only.
    """

    module: ModuleType | None
    kind: str | Callable[[ConfigDict], str] = ""
    is_independent: bool = False
    reads_paths: bool = False
    single_process: bool = False

    def kind_of(self, config: ConfigDict) -> str:
        """Returns the kind of the network that a config leaves in its workdir; empty for none."""
        return self.kind(config) if callable(self.kind) else self.kind

    @property
    def is_training(self) -> bool:
        """Whether it trains a network, with steps that can be planned."""
        return hasattr(self.module, "build")

    def check(self, config: ConfigDict) -> None:
        """Checks everything that needs no data.

        Raises:
          UserError: a mistake in the config.
        """
        self.module.check(config)

    def check_inputs(self, run: Any) -> None:
        """Checks, before any stage runs, the data and the earlier runs that a config names.

        Raises:
          UserError: one does not exist, or does not fit.
        """
        if hasattr(self.module, "check_inputs"):
            self.module.check_inputs(run)

    def run(self, run: Any) -> dict[str, Any]:
        """Runs the task and returns its results.

        Raises:
          UserError: data or earlier runs that cannot be used.
        """
        return self.module.run(run)

    def plan_frozen(self, run: Any) -> Any:
        """Returns the network that a training is trained on, with the shapes of its weights; None without one."""
        return self.module.plan_frozen(run) if hasattr(self.module, "plan_frozen") else None

    def split(self, workdir: pathlib.Path, config: ConfigDict) -> dict[pathlib.Path, ConfigDict]:
        """Returns workdir -> config of each training that the task consists of; itself, where it is one task."""
        return self.module.split(workdir, config) if hasattr(self.module, "split") else {workdir: config}


Tasks = Mapping[str, Task]
