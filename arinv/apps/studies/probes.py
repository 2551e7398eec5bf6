"""Probes of a pair (encode, decode): perturbed, mixed, sampled and single features, and features of changed images.

A probe is a pure function (key, encode, decode, images, options) -> Sheet, and a row of PROBES. Images are float32
[N, H, W, 3] in [0, 1]; the features are [N, ...] of any rank. Error is the normalized error everywhere: the Euclidean
distance between two images over `options.mean_distance`. Random numbers follow from the key alone, so that all pairs
get the same.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from arinv.ops import norms
from arinv.ops.colors import grey_values, shift_hue
from arinv.ops.inputs import as_images
from arinv.types import Array, DecodeFn

Encode = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Options:
    """What probes are run with.

    Attributes:
      mean_distance: mean Euclidean distance between two images, the unit of errors.
      reference: float32 [M, H, W, 3] in [0, 1], other images, for the statistics of features and as neighbors.
      logits: images -> logits [N, K] of the encoder; None where it has none.
      layers: layer -> images -> feature, where neighbors are searched for beside the pixels.
      strengths: percentages of perturbations, percent of the entries that are set to zero, for curves.
      steps: percentages of interpolation, percent of the way to the other image; the first is 0, the last 100.
      scale: scale of features sampled from histograms.
      num_units: single entries of each feature that are shown.
      hues: turns of the color wheel, in (0, 1).
      top: number of the largest entries of a vector that are kept, or set to zero.
      factors: factors of the brightness.
      iterations: iterations of re-encoding that are shown, ascending.
      has_prior: whether N(0, I) is the prior of the features, as for a variational autoencoder's latents.
    """

    mean_distance: float
    reference: Array
    logits: Callable[[Array], Array] | None = None
    layers: Mapping[str, Encode] = dataclasses.field(default_factory=dict)
    strengths: tuple[int, ...] = (10, 30, 50, 70, 90)
    steps: tuple[int, ...] = (0, 25, 50, 75, 100)
    scale: float = 2.0
    num_units: int = 4
    hues: tuple[float, ...] = (1 / 3, 2 / 3)
    top: int = 5
    factors: tuple[float, ...] = (0.1, 10.0)
    iterations: tuple[int, ...] = (1, 2, 4, 6, 8, 12, 16, 20)
    has_prior: bool = False


class Sheet(NamedTuple):
    """The result of a probe for N images.

    Attributes:
      rows: name -> float32 [N, H, W, 3] in [0, 1], in the order of the sheet.
      numbers: name -> float32 [N], finite.
      predictions: row -> (class int32 [N], confidence float32 [N]) of the encoder for the images of a row.
      x: whole numbers [T], the positions of curves; empty without curves.
      curves: name -> float32 [T, N].
    """

    rows: Mapping[str, Array]
    numbers: Mapping[str, Array]
    predictions: Mapping[str, tuple[Array, Array]] = MappingProxyType({})
    x: tuple[int, ...] = ()
    curves: Mapping[str, Array] = MappingProxyType({})


def perturb(key: Array, encode: Encode, decode: DecodeFn, images: Array, options: Options) -> Sheet:
    """Returns reconstructions from binarized features, from half of their entries, and from both combined.

    Args:
      key: PRNG key of the dropout.
      encode: images -> features.
      decode: features -> images.
      images: [N, H, W, 3] in [0, 1].
      options: mean_distance and strengths are read.

    Source: Dosovitskiy & Brox 2016, section 5.4.
    """
    features = encode(images)
    forms = {
        "features": features,
        "binarized": binarize(features),
        "dropout 50%": dropout(key, features, rate=0.5),
        "dropout 50%, binarized": binarize(dropout(key, features, rate=0.5)),
        "smallest 50% dropped": drop_smallest(features, share=0.5),
        "smallest 50% dropped, binarized": binarize(drop_smallest(features, share=0.5)),
    }
    rows = {name: decode(form) for name, form in forms.items()}
    error = functools.partial(_error, images, options=options)
    shares = [strength / 100 for strength in options.strengths]
    curves = {
        "error, dropout": [error(decode(dropout(key, features, rate=share))) for share in shares],
        "error, smallest dropped": [error(decode(drop_smallest(features, share=share))) for share in shares],
    }
    numbers = {f"error, {name}": error(row) for name, row in rows.items()}
    curves = {name: jnp.stack(values) for name, values in curves.items()}
    return Sheet({"image": images, **rows}, numbers, x=options.strengths, curves=curves)


def interpolate(key: Array, encode: Encode, decode: DecodeFn, images: Array, options: Options) -> Sheet:
    """Returns images on the straight lines between the features of each image and of the next one.

    The ends are the reconstructions of the two images, exactly.

    Args:
      key: not used.
      encode: images -> features.
      decode: features -> images.
      images: [N, H, W, 3] in [0, 1]; the last is followed by the first.
      options: mean_distance and steps are read.

    Source: Dosovitskiy & Brox 2016, section 5.5.
    """
    del key
    features = encode(images)
    others, targets = jnp.roll(features, -1, axis=0), jnp.roll(images, -1, axis=0)
    rows = {}
    for percent in options.steps:
        share = percent / 100
        mixed = {0: features, 100: others}.get(percent, (1 - share) * features + share * others)
        rows[f"{percent}%"] = decode(mixed)
    curves = {
        "error to the image": jnp.stack([_error(images, row, options=options) for row in rows.values()]),
        "error to the next image": jnp.stack([_error(targets, row, options=options) for row in rows.values()]),
    }
    halfway = jnp.argmin(jnp.abs(jnp.array(options.steps) - 50))
    numbers = {f"{name}, halfway": values[halfway] for name, values in curves.items()}
    return Sheet({"image": images, **rows, "next image": targets}, numbers, x=options.steps, curves=curves)


def sample(key: Array, encode: Encode, decode: DecodeFn, images: Array, options: Options) -> Sheet:
    """Returns images of random features: of each entry's histogram, one truncated Gaussian for all, and the prior.

    Args:
      key: PRNG key of the samples.
      encode: images -> features.
      decode: features -> images.
      images: [N, H, W, 3] in [0, 1]; as many features are sampled.
      options: reference, scale and has_prior are read.

    Source: Dosovitskiy & Brox 2016, section 5.5; of the prior, "Generating images ...", figure 7.
    """
    keys = jax.random.split(key, 3)
    reference = encode(options.reference)
    sampled = sample_histogram(keys[0], reference, count=len(images))
    forms = {
        "histogram": sampled,
        f"histogram x {options.scale:g}": options.scale * sampled,
        "Gaussian": sample_gaussian(keys[1], reference, count=len(images)),
    }
    if options.has_prior:
        forms["N(0, I)"] = jax.random.normal(keys[2], sampled.shape)
    rows = {name: decode(form) for name, form in forms.items()}
    numbers = {"zeros, images": _zeros(encode(images))}
    numbers |= {f"zeros, {name}": _zeros(form) for name, form in forms.items()}
    numbers |= {f"contrast, {name}": jnp.std(row, axis=(1, 2, 3)) for name, row in rows.items()}
    return Sheet(rows, {"contrast, images": jnp.std(images, axis=(1, 2, 3)), **numbers})


def units(key: Array, encode: Encode, decode: DecodeFn, images: Array, options: Options) -> Sheet:
    """Returns images of single entries: the largest entries of each feature, one at a time, all others zero.

    Args:
      key: not used.
      encode: images -> features.
      decode: features -> images.
      images: [N, H, W, 3] in [0, 1].
      options: mean_distance and num_units are read.

    Source: Dosovitskiy & Brox 2016, supplementary figure 17.
    """
    del key
    features = encode(images)
    flat = _flat(features)
    values, places = jax.lax.top_k(flat, min(options.num_units, flat.shape[1]))
    nothing = decode(jnp.zeros_like(features))
    rows, numbers = {"image": images, "features": decode(features), "no unit": nothing}, {}
    for rank in range(values.shape[1]):
        single = jax.nn.one_hot(places[:, rank], flat.shape[1], dtype=flat.dtype) * values[:, rank : rank + 1]
        name = f"unit {rank + 1}"
        rows[name] = decode(single.reshape(features.shape))
        numbers |= {f"value, {name}": values[:, rank], f"change, {name}": _error(nothing, rows[name], options=options)}
    return Sheet(rows, numbers)


def hue(key: Array, encode: Encode, decode: DecodeFn, images: Array, options: Options) -> Sheet:
    """Returns images of shifted hue and their reconstructions; of vectors also from their largest entries and the rest.

    Saturated pixels, those of colored objects, change most. Where the encoder has logits, its prediction and its
    confidence are returned for every image.

    Args:
      key: not used.
      encode: images -> features.
      decode: features -> images.
      images: [N, H, W, 3] in [0, 1].
      options: hues, top, logits and mean_distance are read.

    Source: Dosovitskiy & Brox 2016, section 5.3.
    """
    del key
    rows, numbers = {}, {}
    for turn in (0.0, *options.hues):
        shifted = shift_hue(images, turn) if turn else images
        features, prefix = encode(shifted), f"hue {360 * turn:.0f}, "
        forms = {"all": features}
        if features.ndim == 2 and features.shape[1] > options.top:
            largest = _keep_largest(features, options.top)
            forms |= {f"top {options.top}": largest, "rest": features - largest}
        reconstructions = {f"{prefix}{name}": decode(form) for name, form in forms.items()}
        numbers |= {f"error, {n}": _error(shifted, row, options=options) for n, row in reconstructions.items()}
        rows |= {f"{prefix}image": shifted, **reconstructions}
    predictions = {name: _predict(row, options) for name, row in rows.items()} if options.logits else {}
    numbers |= {f"confidence, {name}": confidence for name, (_, confidence) in predictions.items()}
    return Sheet(rows, numbers, predictions)


def brightness(key: Array, encode: Encode, decode: DecodeFn, images: Array, options: Options) -> Sheet:
    """Returns reconstructions of images whose values are multiplied by factors, beyond [0, 1] where they exceed 1.

    The change is the Euclidean distance from the reconstruction of the image itself, over that one's norm.

    Args:
      key: not used.
      encode: images -> features; takes values above 1.
      decode: features -> images.
      images: [N, H, W, 3] in [0, 1].
      options: factors and mean_distance are read.

    Source: Dosovitskiy & Brox 2016, section 4 (HOG).
    """
    del key
    original = decode(encode(images))
    rows, numbers = {"image": images, "x 1": original}, {"error, x 1": _error(images, original, options=options)}
    size = jnp.maximum(norms.norm(original, "l2"), 1e-12)
    for factor in options.factors:
        reconstruction = decode(encode(factor * images))
        name = f"x {factor:g}"
        rows |= {f"image {name}": jnp.clip(factor * images, 0, 1), name: reconstruction}
        numbers[f"error, {name}"] = _error(images, reconstruction, options=options)
        numbers[f"change, {name}"] = norms.norm(reconstruction - original, "l2") / size
    return Sheet(rows, numbers)


def grey(key: Array, encode: Encode, decode: DecodeFn, images: Array, options: Options) -> Sheet:
    """Returns reconstructions of grey images, which are colored where the decoder has learned colors.

    Args:
      key: not used.
      encode: images -> features.
      decode: features -> images.
      images: [N, H, W, 3] in [0, 1].
      options: mean_distance is read.

    Source: Dosovitskiy & Brox 2016, section 4.
    """
    del key
    inputs = jnp.broadcast_to(grey_values(images), images.shape)
    rows = {"image": images, "reconstruction": decode(encode(images))}
    rows |= {"grey": inputs, "from grey": decode(encode(inputs))}
    numbers = {
        "error, reconstruction": _error(images, rows["reconstruction"], options=options),
        "error, from grey": _error(images, rows["from grey"], options=options),
        "error, from grey to grey": _error(inputs, rows["from grey"], options=options),
        "error, grey": _error(images, inputs, options=options),
    }
    numbers |= {f"color, {name}": _colorfulness(row) for name, row in rows.items() if name != "grey"}
    return Sheet(rows, numbers)


def objects(key: Array, encode: Encode, decode: DecodeFn, images: Array, options: Options) -> Sheet:
    """Returns the centers of images as objects on a uniform ground, moved and recolored, and their reconstructions.

    The offset is the distance between the centers of mass of an object and of its reconstruction, against the image
    and the reconstruction of the ground alone, in image widths; the color error that of the mean color of its place.

    Args:
      key: not used.
      encode: images -> features.
      decode: features -> images.
      images: [N, H, W, 3] in [0, 1].
      options: hues and mean_distance are read.

    Source: Dosovitskiy & Brox 2016, "Generating images ...", figure 4: three positions, three colors.
    """
    del key
    ground = jnp.broadcast_to(jnp.mean(images, axis=(1, 2), keepdims=True), images.shape)
    empty = decode(encode(ground))
    quarter = images.shape[2] // 4
    shifts = {"left": -quarter, "center": 0, "right": quarter}
    forms = {name: _place(images, ground, shift) for name, shift in shifts.items()}
    for turn in options.hues:
        forms[f"hue {360 * turn:.0f}"] = _place(shift_hue(images, turn), ground, 0)
    rows, numbers = {}, {}
    for name, form in forms.items():
        reconstruction = decode(encode(form))
        rows |= {f"{name}, image": form, name: reconstruction}
        expected, actual = (_difference(*pair) for pair in ((form, ground), (reconstruction, empty)))
        colors = (_mean_color(pixels, expected) for pixels in (form, reconstruction))
        numbers[f"error, {name}"] = _error(form, reconstruction, options=options)
        numbers[f"offset, {name}"] = norms.norm(_center(expected) - _center(actual), "l2")
        numbers[f"color error, {name}"] = norms.norm(jnp.subtract(*colors), "l2")
    return Sheet(rows, numbers)


def neighbors(key: Array, encode: Encode, decode: DecodeFn, images: Array, options: Options) -> Sheet:
    """Returns the nearest reference images in pixels and in features, beside the reconstructions.

    Args:
      key: not used.
      encode: images -> features.
      decode: features -> images.
      images: [N, H, W, 3] in [0, 1].
      options: reference, layers and mean_distance are read.

    Source: Dosovitskiy & Brox 2016, "Generating images ...", figure 2: Euclidean distances, training images.
    """
    del key
    rows = {"image": images, "reconstruction": decode(encode(images))}
    places = {"pixels": lambda x: x, "the feature": encode, **options.layers}
    for name, function in places.items():
        rows[f"nearest in {name}"] = options.reference[_nearest(function(images), function(options.reference))]
    numbers = {f"error, {name}": _error(images, row, options=options) for name, row in rows.items() if name != "image"}
    return Sheet(rows, numbers)


def reencode(key: Array, encode: Encode, decode: DecodeFn, images: Array, options: Options) -> Sheet:
    """Returns images that are encoded and decoded again and again.

    Args:
      key: not used.
      encode: images -> features.
      decode: features -> images.
      images: [N, H, W, 3] in [0, 1].
      options: iterations and mean_distance are read.

    Source: Dosovitskiy & Brox 2016, "Generating images ...", figures 8 and 9.
    """
    del key
    rows, current = {"image": images}, images
    for iteration in range(1, options.iterations[-1] + 1):
        current = decode(encode(current))
        if iteration in options.iterations:
            rows[f"iteration {iteration}"] = current
    shown = list(rows.values())[1:]
    curves = {
        "error": jnp.stack([_error(images, row, options=options) for row in shown]),
        "drift": jnp.stack([_error(shown[0], row, options=options) for row in shown]),
    }
    numbers = {f"{name}, iteration {options.iterations[-1]}": values[-1] for name, values in curves.items()}
    return Sheet(rows, numbers, x=options.iterations, curves=curves)


class Probe(NamedTuple):
    """A row of the table of probes.

    Attributes:
      run: (key, encode, decode, images, options) -> Sheet.
      text: heading of its sheet and title of its curves.
      x_label: label of the curves; empty without curves.
      is_random: whether its images are random samples, so that the columns of a sheet belong to no image.
    """

    run: Callable[[Array, Encode, DecodeFn, Array, Options], Sheet]
    text: str
    x_label: str = ""
    is_random: bool = False


PROBES: dict[str, Probe] = {
    "perturb": Probe(perturb, "Reconstructions from perturbed features", "entries set to zero (%)"),
    "interpolate": Probe(interpolate, "From the features of each image to those of the next", "way to the next (%)"),
    "sample": Probe(sample, "Images of random features", is_random=True),
    "units": Probe(units, "The largest entries of each feature, one at a time"),
    "hue": Probe(hue, "Shifted hue; the encoder's prediction and its confidence under each image"),
    "brightness": Probe(brightness, "Images of other brightness"),
    "grey": Probe(grey, "Grey images"),
    "objects": Probe(objects, "Moved and recolored objects"),
    "neighbors": Probe(neighbors, "Nearest reference images"),
    "reencode": Probe(reencode, "Encoded and decoded again and again", "iterations"),
}


def binarize(features: Array) -> Array:
    """Returns features [N, ...] whose nonzero entries have equal magnitudes, with signs and each feature's norm kept.

    Source: Dosovitskiy & Brox 2016, section 5.4.
    """
    return _rescale(jnp.sign(features), features)


def dropout(key: Array, features: Array, *, rate: float) -> Array:
    """Returns features [N, ...] with entries set to zero with probability `rate`, rescaled to each feature's norm.

    Source: Dosovitskiy & Brox 2016, section 5.4.
    """
    return _rescale(jnp.where(jax.random.uniform(key, features.shape) >= rate, features, 0.0), features)


def drop_smallest(features: Array, *, share: float) -> Array:
    """Returns features [N, ...] with the smallest share of each one's nonzero entries, by magnitude, set to zero.

    Source: Dosovitskiy & Brox 2016, section 5.4.
    """
    flat = jnp.abs(_flat(features))
    counts = jnp.sum(flat > 0, axis=1)
    ranks = jnp.argsort(jnp.argsort(-flat, axis=1), axis=1)  # 0 for the largest
    kept = ranks < jnp.ceil((1 - share) * counts)[:, None]
    return jnp.where(kept.reshape(features.shape), features, 0.0)


def sample_histogram(key: Array, reference: Array, *, count: int) -> Array:
    """Returns features [count, ...] whose nonzero entries are drawn from those of each entry of reference [M, ...].

    Each has as many nonzero entries as one of the reference's features, drawn at random; which ones they are follows
    from how often each is nonzero.

    Source: Dosovitskiy & Brox 2016, section 5.5; the choice of the nonzero entries is ours.
    """
    flat = _flat(reference)
    keys = jax.random.split(key, 3)
    nonzero = flat != 0
    frequency = jnp.mean(nonzero.astype(jnp.float32), axis=0)
    numbers = jnp.sum(nonzero, axis=1)[jax.random.randint(keys[0], (count,), 0, len(flat))]
    shape = (count, flat.shape[1])
    scores = jnp.log(frequency) - jnp.log(jnp.maximum(1 - frequency, 1e-6))
    noisy = jnp.broadcast_to(scores[None], shape) + jax.random.logistic(keys[1], shape)
    chosen = jnp.argsort(jnp.argsort(-noisy, axis=1), axis=1) < numbers[:, None]
    order = jnp.argsort(~nonzero, axis=0, stable=True)  # of each entry, the features where it is nonzero first
    place = jnp.floor(jax.random.uniform(keys[2], shape) * jnp.sum(nonzero, axis=0)[None]).astype(jnp.int32)
    values = jnp.take_along_axis(flat, jnp.take_along_axis(order, place, axis=0), axis=0)
    return jnp.where(chosen, values, 0.0).reshape(count, *reference.shape[1:])


def sample_gaussian(key: Array, reference: Array, *, count: int) -> Array:
    """Returns features [count, ...] of max(0, N(m, s)), with m and s fitted to the first two moments of reference.

    One distribution for all entries; a plain Gaussian where the reference has negative entries.

    Source: Dosovitskiy & Brox 2016, section 5.5, which states no formula for its shifted truncated Gaussian.
    """
    noise = jax.random.normal(key, (count, *reference.shape[1:]))
    mean, square = jnp.mean(reference), jnp.mean(jnp.square(reference))
    if jnp.any(reference < 0):
        return mean + jnp.sqrt(square - mean**2) * noise
    ratio, low, high = mean**2 / jnp.maximum(square, 1e-30), -8.0, 8.0
    for _ in range(50):  # the ratio of the moments grows with m / s
        middle = (low + high) / 2
        first, second = _truncated_moments(middle)
        low, high = (middle, high) if first**2 / second < ratio else (low, middle)
    deviation = mean / _truncated_moments(low)[0]
    return jnp.maximum(0.0, deviation * (low + noise))


def _truncated_moments(shift: float) -> tuple[Array, Array]:
    """Returns the mean and the second moment of max(0, N(shift, 1))."""
    below, density = jax.scipy.stats.norm.cdf(shift), jax.scipy.stats.norm.pdf(shift)
    return shift * below + density, (shift**2 + 1) * below + shift * density


def _flat(features: Array) -> Array:
    return features.reshape(features.shape[0], -1)


def _rescale(changed: Array, features: Array) -> Array:
    """Returns changed features [N, ...] with the norm of each original one."""
    target, actual = (jnp.linalg.norm(_flat(x), axis=1) for x in (features, changed))
    ratios = target / jnp.maximum(actual, 1e-12)
    return changed * jnp.expand_dims(ratios, range(1, changed.ndim))


def _error(images: Array, reconstructions: Array, *, options: Options) -> Array:
    """Returns the normalized error of each image [N]."""
    return norms.norm(as_images(reconstructions) - images, "l2") / options.mean_distance


def _zeros(features: Array) -> Array:
    """Returns the share of zeros of each feature [N]."""
    return jnp.mean((_flat(features) == 0).astype(jnp.float32), axis=1)


def _keep_largest(vectors: Array, count: int) -> Array:
    places = jax.lax.top_k(vectors, count)[1]
    kept = jnp.sum(jax.nn.one_hot(places, vectors.shape[1], dtype=vectors.dtype), axis=1)
    return vectors * kept


def _predict(images: Array, options: Options) -> tuple[Array, Array]:
    """Returns the class of each image and its probability."""
    probabilities = jax.nn.softmax(options.logits(images), axis=-1)
    return jnp.argmax(probabilities, axis=-1), jnp.max(probabilities, axis=-1)


def _colorfulness(images: Array) -> Array:
    """Returns the mean standard deviation over the channels of the pixels of each image."""
    return jnp.mean(jnp.std(images, axis=3), axis=(1, 2))


def _place(images: Array, ground: Array, shift: int) -> Array:
    """Returns the discs at the centers of images, half as wide as these, moved to the right, on a ground."""
    rows, columns = (jnp.arange(side) - (side - 1) / 2 for side in images.shape[1:3])
    radius = min(images.shape[1:3]) / 4
    disc = jnp.square(rows)[:, None] + jnp.square(columns)[None, :] <= radius**2
    disc, images = jnp.roll(disc, shift, axis=1)[None, :, :, None], jnp.roll(images, shift, axis=2)
    return jnp.where(disc, images, ground)


def _difference(images: Array, ground: Array) -> Array:
    """Returns the weights [N, H, W] of the pixels by which images differ from the ground."""
    return jnp.sum(jnp.square(images - ground), axis=3)


def _center(weights: Array) -> Array:
    """Returns the center of mass (row, column) [N, 2] of weights [N, H, W], in image widths; the middle without any."""
    total = jnp.sum(weights, axis=(1, 2))
    rows, columns = (jnp.arange(side, dtype=jnp.float32) for side in weights.shape[1:])
    moments = jnp.einsum("nhw,h->n", weights, rows), jnp.einsum("nhw,w->n", weights, columns)
    middle = [(side - 1) / 2 for side in weights.shape[1:]]
    places = [jnp.where(total > 0, m / jnp.maximum(total, 1e-30), c) for m, c in zip(moments, middle, strict=True)]
    return jnp.stack(places, axis=1) / weights.shape[2]


def _mean_color(images: Array, weights: Array) -> Array:
    """Returns the mean color [N, 3] of the pixels whose weight is above 0."""
    inside = (weights > 0).astype(images.dtype)
    return jnp.einsum("nhwc,nhw->nc", images, inside) / jnp.maximum(jnp.sum(inside, axis=(1, 2)), 1.0)[:, None]


def _nearest(features: Array, reference: Array) -> Array:
    """Returns the row of the reference that is nearest to each feature, by Euclidean distance."""
    features, reference = _flat(features), _flat(reference)
    squares = jnp.sum(jnp.square(reference), axis=1)
    products = jnp.matmul(features, reference.T, precision="highest")
    return jnp.argmin(squares[None, :] - 2 * products, axis=1)
