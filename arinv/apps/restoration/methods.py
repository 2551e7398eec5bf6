"""Methods that restore degraded images, as functions of a batch: what a task's config names, loaded and compiled.

"autoencoder"         D(E(x+)), one pass of an autoencoder
"aegan"               the same of an AEGAN, whose decoder is the generator of a GAN
"invertgan"           the generator's image nearest to x+: the search with the identity as E
"generative_encoder"  the search that compares codes of the autoencoder
NAME of an encoder    the search that compares features of a classifier or an inverter, such as a robust one, at
                      config.layer, or where that is empty at its own

Source: Generative Encoder, Algorithm 1, sections 4.4 and 4.5.
"""

import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import models, parallel
from arinv.apps.restoration.solver import Solution, solve
from arinv.errors import UserError, unknown
from arinv.experiment.descriptions import OtherSize
from arinv.experiment.fields import channels_of
from arinv.experiment.run import Run
from arinv.experiment.trained import AUTOENCODER, CLASSIFIER, GAN, INVERTER, Trained
from arinv.ops.degradations import Operator, check_size, image_keys
from arinv.ops.images import to_float, to_rgb
from arinv.ops.inputs import check_count, check_number
from arinv.ops.latents import draw_starts
from arinv.train.autoencoder import operator_of
from arinv.types import Array

AEGAN, INVERTGAN, SEARCH = "aegan", "invertgan", "generative_encoder"
PASSES = (AUTOENCODER, AEGAN)
SECONDS = "seconds_per_image"
_DEGRADE, _START = range(2)  # PRNG streams

Part = dict[str, np.ndarray]


def check(config: ConfigDict) -> None:
    """Checks the fields operator, solver, methods and those that name networks.

    Raises:
      UserError: an unknown name, a number out of range, or no method.
    """
    operator = operator_of(config)
    if "image_size" in config.data:
        check_size(operator, image_size=config.data.image_size, channels=channels_of(config))
    solver = config.solver
    for name in ("num_steps", "num_starts"):
        check_count(solver[name], f"solver.{name}")
    for name, least in (("learning_rate", 1e-12), ("penalty", 0.0), ("threshold", 0.0)):
        check_number(solver[name], f"solver.{name}", minimum=least)
    methods, known = set(config.methods), (*PASSES, INVERTGAN, SEARCH, *config.encoders)
    for name in config.methods:
        if name not in known:
            raise unknown("method", name, known)
    if not methods:
        raise UserError(f"methods is empty; name some of {', '.join(known)}")
    if not config.gan and methods - set(PASSES):
        raise UserError("gan is empty; name the workdir of a GAN's training, such as runs/gan/size32")
    if not config.autoencoder and {AUTOENCODER, SEARCH} & methods:
        raise UserError("autoencoder is empty; name the workdir of an autoencoder's training")
    if config.layer and not config.encoders:
        raise UserError(f"layer={config.layer!r} needs encoders, the networks whose features are compared")
    if not config.aegan and AEGAN in methods:
        raise UserError("aegan is empty; name the workdir of an AEGAN, of configs/autoencoder.py:networks=aegan")


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the networks exist, or are stages, and take images of this size.

    Raises:
      UserError: no checkpoint, or one of another kind, image size, number of channels or length of the latents, or an
        operator that does not take images of that size.
    """
    config, size, channels = run.config, run.config.data.get("image_size"), channels_of(run.config)
    for name, kind in (("gan", GAN), ("autoencoder", AUTOENCODER), ("aegan", AUTOENCODER)):
        if config[name] and run.check_planned(config[name], kind=kind) is None:
            network = _load_network(run, name, kind, size)
            size, channels = network.image_size, network.description.get("channels", 3)
    for reference in filter(None, config.encoders.values()):
        stage = run.check_planned(reference, kind=(INVERTER, CLASSIFIER), allow_other_size=config.allow_other_size)
        if stage is None:
            _load_encoder(run, reference, size).check_layer(config.layer, image_size=size)
        elif config.layer:
            models.feature_spec(stage.encoder.name, config.layer, **stage.encoder.options)  # raises
    if size:
        check_size(operator_of(config), image_size=size, channels=channels)


def _load_network(run: Run, name: str, kind: str, size: int | None) -> Trained:
    """Returns the network that a field of the config names.

    Raises:
      UserError: as `load`.
    """
    config, reference = run.config, run.config[name]
    channels = channels_of(config) if "channels" in config.data else None
    network = run.load(reference, kind=kind, image_size=size, channels=channels)
    length = config.get("latent_size", 0)
    if kind == GAN and length and network.module.latent_size != length:
        raise UserError(f"{reference} has latents of {network.module.latent_size} numbers; name a GAN with {length}")
    if kind == AUTOENCODER and ((own := network.description["autoencoder"]["networks"]) == AEGAN) != (name == AEGAN):
        other = AUTOENCODER if name == AEGAN else AEGAN
        raise UserError(f"{name}={reference} is an autoencoder of networks {own!r}; give it as {other}=")
    return network


def _load_encoder(run: Run, reference: str, size: int | None) -> Trained:
    """Returns an encoder whose features a search compares.

    Raises:
      UserError: as `load`.
    """
    options = {"image_size": size, "allow_other_size": run.config.allow_other_size}
    try:
        return run.load(reference, kind=(INVERTER, CLASSIFIER), **options)
    except OtherSize as error:
        raise UserError(f"{error}, or allow_other_size=True to compare its features at {size} px anyway") from error


def load(run: Run) -> dict[str, Trained]:
    """Returns the networks of the methods: "gan", "autoencoder", "aegan" and the encoders by name.

    Raises:
      UserError: a missing network, or one of another image size, number of channels or length of the latents.
    """
    config, size = run.config, run.config.data.get("image_size")
    methods, networks = set(config.methods), {}
    if methods - set(PASSES):
        networks[GAN] = _load_network(run, "gan", GAN, size)
    if {AUTOENCODER, SEARCH} & methods:
        networks[AUTOENCODER] = _load_network(run, "autoencoder", AUTOENCODER, size)
    if AEGAN in methods:
        networks[AEGAN] = _load_network(run, "aegan", AUTOENCODER, size)
    sizes = {network.image_size for network in networks.values()}
    if len(sizes) > 1:
        raise UserError(
            f"the networks are of images of {', '.join(map(str, sorted(sizes)))} px; name networks of one size"
        )
    for name, reference in config.encoders.items():
        if name in methods:
            networks[name] = encoder = _load_encoder(run, reference, min(sizes))
            if encoder.image_size != min(sizes):
                run.report(f"{name} of images of {min(sizes)} px: the encoder was trained at {encoder.image_size} px")
    _report_operator(run, networks)
    return networks


def _report_operator(run: Run, networks: Mapping[str, Trained]) -> None:
    """Reports an autoencoder that was trained for another operator than the images are degraded by."""
    operator = run.config.operator.to_dict()
    for name in (AUTOENCODER, AEGAN):
        trained = networks[name].description.get("operator") if name in networks else None
        if trained and trained != operator:
            run.report(f"the {name} was trained for the operator {_text(trained)}, images have {_text(operator)}")


def _text(operator: Mapping) -> str:
    options = ", ".join(f"{name} {value}" for name, value in operator["options"].items())
    return f"{operator['name']} ({options})" if options else operator["name"]


def fingerprints(method: str, networks: Mapping[str, Trained]) -> list[str]:
    """Returns the fingerprints of the networks that a method's results depend on."""
    own = {AUTOENCODER: [AUTOENCODER], AEGAN: [AEGAN], INVERTGAN: [GAN], SEARCH: [AUTOENCODER, GAN]}
    return [networks[name].fingerprint for name in own.get(method, [method, GAN])]


def degrade(run: Run, operator: Operator, images: Array, indices: Array) -> Array:
    """Returns x+ of images [B, H, W, C], drawn from the seed and the indices of the images [B] alone."""
    return operator.degrade(_keys(run, indices), jnp.asarray(images))


def build(
    run: Run, method: str, networks: Mapping[str, Trained], operator: Operator, *, degraded: bool = False
) -> Callable[[np.ndarray, np.ndarray], Part]:
    """Returns a method as a function, compiled at its first call.

    Args:
      run: a run of a task with the fields of `check`.
      method: one of config.methods.
      networks: as returned by `load`.
      operator: the degradation, and its projection S.
      degraded: whether the function's images are degraded already; otherwise it degrades them first.

    Returns:
      (images uint8 [B, H, W, C], their numbers [B]) -> {"image": float32 [B, H, W, C] in [0, 1], "seconds_per_image":
      []}, of a search also "error" [B, T + 1], the mean squared errors to the images during the search (NaN where they
      are degraded already), and "num_steps" [B].
    """

    def observed(images, indices):
        return images if degraded else degrade(run, operator, images, indices)

    def one_pass(functions, images, indices):
        return functions[1](functions[0](observed(images, indices)))

    def search(functions, images, indices):
        truth = None if degraded else images
        return _search(run, networks[GAN].module, operator, functions, observed(images, indices), indices, truth)

    if method in PASSES:
        step, functions = one_pass, (networks[method].encode_fn, networks[method].decode_fn)
    else:
        step, functions = search, (_encode_fn(method, networks, run.config.layer), networks[GAN].decode_fn)
    functions = parallel.replicate(functions, run.mesh)
    compiled = []

    def restore(images_u8: np.ndarray, indices: np.ndarray) -> Part:
        images = to_float(parallel.place_whole_batch({"image": images_u8}, run.mesh)["image"])
        indices = parallel.place_whole_batch({"row": indices.astype(np.int32)}, run.mesh)["row"]
        if not compiled:
            compiled.append(jax.jit(step).lower(functions, images, indices).compile())
        started = time.perf_counter()
        result = jax.block_until_ready(compiled[0](functions, images, indices))
        seconds = np.array((time.perf_counter() - started) / len(indices))
        if isinstance(result, Solution):
            error, steps = np.asarray(result.errors).T, np.asarray(result.num_steps)
            image = np.clip(np.asarray(result.images), 0, 1)
            return {"image": image, "error": error, "num_steps": steps, SECONDS: seconds}
        return {"image": np.clip(np.asarray(result), 0, 1), SECONDS: seconds}

    return restore


def _search(
    run: Run,
    gan: models.Gan,
    operator: Operator,
    functions: tuple[Callable, Callable],
    degraded: Array,
    indices: Array,
    truth: Array | None,
) -> Solution:
    """Returns the solution for degraded images, with E and G as functions, from starts that follow from the numbers."""
    solver = run.config.solver
    starts = draw_starts(
        jax.random.fold_in(run.key, _START),
        indices,
        latent_size=gan.latent_size,
        prior=gan.prior,
        num_starts=solver.num_starts,
    )
    return solve(
        functions[1],
        functions[0],
        degraded,
        starts if solver.num_starts > 1 else starts[:, 0],
        project_fn=lambda generated: operator.project(_keys(run, indices), generated),
        num_steps=solver.num_steps,
        learning_rate=solver.learning_rate,
        penalty=solver.penalty,
        threshold=solver.threshold,
        truth=truth,
    )


def _encode_fn(method: str, networks: Mapping[str, Trained], layer: str) -> Callable[[Array], Array]:
    """Returns E of a search; the layer is that of a classifier or an inverter, empty for its own."""
    if method == INVERTGAN:
        return jax.tree_util.Partial(_identity)
    if method == SEARCH:
        return networks[AUTOENCODER].encode_fn
    return jax.tree_util.Partial(_encode_rgb, networks[method].layer_fn(layer))


def _encode_rgb(encode_fn: Callable[[Array], Array], images: Array) -> Array:
    return encode_fn(to_rgb(images))


def _identity(images: Array) -> Array:
    return images


def _keys(run: Run, indices: Array) -> Array:
    return image_keys(jax.random.fold_in(run.key, _DEGRADE), jnp.asarray(indices))
