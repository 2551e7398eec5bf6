"""Tables of one robust encoder beside a standard one: accuracies, robustness, and quality of the inversions."""

from ml_collections import ConfigDict

from configs import tasks


def invert_pair(
    args: ConfigDict, *, inverted_size: int = 0, autoattack: bool = False
) -> tuple[dict[str, ConfigDict], dict[str, tuple[str, ...]]]:
    """Returns the stages that train, attack and invert a standard and a robust encoder, and their evaluations.

    Args:
      args: resolved arguments.
      inverted_size: side of the images that are inverted, in pixels; 0: that of the encoders' training.
      autoattack: whether robustness is measured by AutoAttack too.

    Returns:
      Stage name -> config, and "standard" or "robust" -> evaluations whose figures make one row.
    """
    stages, workdirs = tasks.encoder_pair(args)
    entries = {}
    for name, workdir in workdirs.items():
        inverted = ConfigDict({**args.to_dict(), "image_size": inverted_size or args.image_size})
        inverter = tasks.inverter(inverted, workdir, title=f"{name} inverter")
        inverter.encoder.allow_other_size = bool(inverted_size)
        stages[f"{name}_inverter"] = inverter
        parts = [f"{name}_evaluation"]
        if inverted_size:  # accuracies at the size of the encoder's training
            stages[f"{name}_accuracy"] = tasks.evaluate(args, workdir, title=f"{name} accuracy")
            parts.insert(0, f"{name}_accuracy")
            inverted.eps = 0.0
        stages[f"{name}_evaluation"] = tasks.evaluate(
            inverted, f"stage:{name}_inverter", title=f"{name} evaluation", metric_encoder=workdirs["robust"]
        )
        if autoattack:
            stages[f"{name}_autoattack"] = tasks.autoattack(args, workdir)
            parts.append(f"{name}_autoattack")
        entries[name] = tuple(f"stage:{part}" for part in parts)
    return stages, entries
