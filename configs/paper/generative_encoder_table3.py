"""Table 3 of the Generative Encoder: slices of a rock, reconstructed with latents of several sizes and one autoencoder.

    python -m arinv --config=configs/paper/generative_encoder_table3.py --workdir=runs/ge3
    python -m arinv --config=configs/paper/generative_encoder_table3.py:scale=paper --workdir=runs/ge3_paper

The paper's rock is a scan of Bentheimer sandstone at 256 px; dataset=blobs is a synthetic porous volume, not a scan,
dataset=volume:rock.npy one of yours. scale=paper: 256 px, all slices of the test part, an accelerator; without encoder=
and metric_encoder= no search by a robust encoder and no FID, as in the paper, since slices have no labels to train a
classifier. scale=small: 32 px, 32 slices, narrow networks, 1,000 steps in each stage of a GAN; with 200
(--config.stages.latent*_size*.num_steps=200) 44 minutes on two cores: 15.56 dB by invertGAN, 11.0 to 11.9 dB by the
search that compares codes.

Arguments: scale, data_dir, dtype and smoke of configs/paper/README.md, and
  latent_sizes       joined by "+"; the first one is also that of invertGAN, and its generator the autoencoder's
  networks, options  of the GANs: progressive, began or dcgan
  gan                workdir of a GAN with latents of the first size, which is used instead of a new one
  encoder            workdir or zoo:NAME of the robust encoder, for images of image_size; empty: none
  metric_encoder     likewise of the classifier whose features FID compares
  dataset            blobs, or volume:PATH of a volume of yours (configs/volume.py)
  image_size         side of the slices, in pixels; 0: the scale's

Stages: for each size those of its GAN, with the prefix latentSIZE_, and latentSIZE_restoration; autoencoder; report.
"""

from ml_collections import ConfigDict

from configs import arguments, autoencoder, restoration
from configs.paper import inverse_problems, setting

_TEXT = "Slices were reconstructed by generators with latents of several sizes and one autoencoder."
_WITHOUT = {"classes": "generative_encoder_table3 restores slices of a volume, which have no classes"}
_BLOBS = {"dataset": "blobs", "classes": ""}


def get_config(arg=None):
    """Returns the stages: a GAN and a restoration for each size of the latents, one autoencoder, the report."""
    scales = {"small": _BLOBS, "paper": {**_BLOBS, "image_size": 256}, "smoke": {**_BLOBS, "latent_sizes": "8+4"}}
    args = inverse_problems.parse(arg, **scales, without=_WITHOUT, latent_sizes="512+256+128+64")
    texts = arguments.split(args.latent_sizes)
    if not texts or not all(text.isdigit() and int(text) for text in texts):
        raise ValueError(f"latent_sizes={args.latent_sizes!r} must be whole numbers joined by '+', such as 512+256")
    stages, first = {}, texts[0]
    for text in texts:
        own = ConfigDict({**args.to_dict(), "gan": args.gan if text == first else ""})
        trainings, generator = restoration.gan_of(own, prefix=f"latent{text}_", latent_size=int(text))
        stages |= trainings
        if text == first:
            stages["autoencoder"] = autoencoder.task(own, title="autoencoder", gan=generator)
        stage = restoration.task(own, generator, "stage:autoencoder")
        stage.latent_size = int(text)
        if text != first:
            stage.methods = ("generative_encoder",)
        stages[f"latent{text}_restoration"] = stage
    names = {"autoencoder": f"{first}: autoencoder", "invertgan 512": "512: invertgan"}
    names |= {f"generative_encoder {size}": f"{size}: generative_encoder" for size in (512, 256, 128, 64)}
    entries = {text: f"stage:latent{text}_restoration" for text in texts}
    if len(texts) == 1:  # the rows of an only entry have no prefix
        names = {name: own.partition(": ")[2] if own.startswith(first) else own for name, own in names.items()}
    prefixes = {text: f"{text}: " if len(texts) > 1 else "" for text in texts}
    rows = tuple(prefixes[text] + name for text in texts for name in stages[f"latent{text}_restoration"].methods)
    report = setting.report("Generative Encoder 3", entries, names=names, text=_TEXT, rows=rows)
    return inverse_problems.finish(args, stages, report, measured=[f"latent{text}_restoration" for text in texts])
