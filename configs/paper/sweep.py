"""Tables of one encoder that is trained at several radii: accuracy, robustness, and quality of the inversions."""

from ml_collections import ConfigDict

from configs import tasks
from configs.paper import published, setting

ARGUMENTS = {"radii": "", "encoders": "", "recipe": "", "loss": ""}  # of every sweep
_TEXT = "The same encoder, trained at several radii; one generator each was trained to invert it."


def sweep(args: ConfigDict, number: str, *, standard_eps: float, autoattack: bool) -> ConfigDict:
    """Returns the experiment.

    Args:
      args: resolved arguments; radii and encoders are joined by "+".
      number: number of the table. Radii as many as its own stand beside these in their order, others beside equal ones.
      standard_eps: radius of the attack on the encoder that is trained with radius 0.
      autoattack: whether robustness is measured by AutoAttack too.

    Raises:
      ValueError: radii that are no numbers, or another number of encoders.
    """
    radii, given = _radii(args.radii), args.encoders.split("+") if args.encoders else []
    if args.smoke:
        radii, given = radii[:2], given[:2]
    if given and len(given) != len(radii):
        raise ValueError(f"encoders names {len(given)} workdirs for the {len(radii)} radii {args.radii}; name one each")
    stages, entries, labels = {}, {}, {}
    for i, eps in enumerate(radii):
        name = f"eps_{eps:g}".replace(".", "_")
        recipe = args.recipe if eps else ""
        attacked = ConfigDict({**args.to_dict(), "eps": eps or standard_eps, "recipe": recipe})
        encoder = given[i] if given else f"stage:{name}_encoder"
        title = labels[name] = f"eps {eps:g}"
        if not given:
            stages[f"{name}_encoder"] = tasks.classifier(attacked, title=f"{title} encoder", eps=eps)
        stages[f"{name}_inverter"] = tasks.inverter(attacked, encoder, title=f"{title} inverter")
        stages[f"{name}_evaluation"] = tasks.evaluate(attacked, f"stage:{name}_inverter", title=f"{title} evaluation")
        entries[name] = (f"stage:{name}_evaluation",)
        if autoattack:
            stages[f"{name}_autoattack"] = tasks.autoattack(attacked, encoder)
            entries[name] += (f"stage:{name}_autoattack",)
    rows = published.labels(number)
    names = dict(zip(rows, labels.values(), strict=True)) if len(rows) == len(radii) else {}
    report = setting.report(number, entries, names=names, text=_TEXT, labels=labels)
    return setting.finish(args, stages, report)


def _radii(text: str) -> list[float]:
    try:
        radii = [float(part) for part in text.split("+")]
    except ValueError:
        raise ValueError(f"radii={text!r} must be numbers joined by +, such as 0+0.5+1") from None
    if len(set(radii)) < len(radii) or min(radii) < 0:
        raise ValueError(f"radii={text!r} must be different numbers of 0 or more")
    return radii
