"""A standard and a robust inverter, trained or taken from elsewhere: what comparisons of the two begin with."""

from ml_collections import ConfigDict

from configs import arguments, classifier, encoders, inverter

# What such a config understands beside arguments.TRAINING and arguments.METRICS. Section 4.3 of Rojas-Gomez et al. 2022
# inverts with pixel, feature and GAN losses.
ARGUMENTS = {
    "eps": -1.0,
    "metrics": "psnr+ssim",
    "standard": "",
    "robust": "",
    "layer": "",
    "loss": "gan",
    "inverter_epochs": 0.0,
    "inverter_batch": 0,
    "inverter_rate": 0.0,
    "inverter_schedule": "",
}


def parse(arg: str | None, **more) -> ConfigDict:
    """Returns the arguments of a config that compares a standard and a robust inverter."""
    return encoders.resolve(arguments.parse(arg, **arguments.TRAINING | arguments.METRICS | ARGUMENTS | more))


def inverter_stages(args: ConfigDict) -> tuple[dict[str, ConfigDict], dict[str, str]]:
    """Returns the stages that train what is not there yet, and where both inverters are, by "standard" and "robust".

    Args:
      args: from `parse`; `standard` and `robust` are workdirs of inverters, or empty to train an encoder and one.
    """
    stages, references = {}, {}
    for name, eps in (("standard", 0.0), ("robust", args.eps)):
        if args[name]:
            references[name] = args[name]
            continue
        title = f"{name} encoder"
        stages[f"{name}_encoder"] = classifier.from_arguments(args, title=title, eps=eps, test_eps=args.eps)
        stages[f"{name}_inverter"] = inverter.inverter_stage(args, f"stage:{name}_encoder", title=f"{name} inverter")
        references[name] = f"stage:{name}_inverter"
    return stages, references


def metric_fields(args: ConfigDict) -> dict:
    """Returns what is measured, through which networks: by default the robust encoder, where it is trained here."""
    fields = arguments.metric_fields(args)
    if not args.metric_encoder and not args.robust:
        fields["metric_networks"]["encoder"] = "stage:robust_encoder"
    return fields
