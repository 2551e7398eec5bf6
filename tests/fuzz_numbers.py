"""Random calls of the public functions of attacks, metrics, losses and applications, on tiny models.

Each call returns finite values of the promised shape, dtype and range, or raises UserError; anything else is a failure.
"""

import functools
import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from arinv import attacks, losses, metrics
from arinv.apps import anomaly, restoration
from arinv.apps.inversion import enlarging, representation_inversion
from arinv.apps.style import transfer
from arinv.errors import RadiusWarning
from arinv.ops import norms, wct

CLASSES = 3
SIZES = ((1, 1), (2, 2), (4, 4), (8, 2), (2, 9), (12, 11), (33, 6))
NORMS = ("l1", "l2", "linf")


def cases(rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields random calls without end: what is called, with what, and a function that calls and checks it."""
    while True:
        name = rng.choice(list(_CALLS))
        described, call = _CALLS[name](rng)
        yield f"{name}({described})", functools.partial(_check, call)


def _check(call: Callable[[], Iterator]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RadiusWarning)
        checks = list(call())
    for holds, what in checks:
        assert holds, what


def _choose(rng, common, *others, odds=0.85):
    """Returns what is right in most calls, or else something odd."""
    return common if rng.random() < odds or not others else others[rng.integers(len(others))]


def _images(rng, shape):
    x = rng.random(shape, dtype=np.float32)
    x = (x, np.zeros_like(x), np.ones_like(x), np.full_like(x, 0.5), np.round(x), x.astype(np.float64))[rng.integers(6)]
    with_nan = x.copy()
    if x.size:
        with_nan.reshape(-1)[0] = (np.nan, np.inf, -np.inf)[rng.integers(3)]
    odd = (
        (255 * x).astype(np.uint8), (255 * x).astype(np.int32), 255 * x, 2 * x - 1, np.moveaxis(x, -1, 1), with_nan,
        x[:0],
        x + np.float32(1e-7), x.astype(np.float16), jnp.asarray(x, jnp.bfloat16), x.tolist(), x.reshape(len(x), -1),
        x[..., None], x > 0.5, "images", None,
    )  # fmt: skip
    return _choose(rng, x, *odd, odds=0.7)


def _shape(rng):
    return (int(rng.integers(1, 4)), *SIZES[rng.integers(len(SIZES))], _choose(rng, 3, 1))


def _labels(rng, count):
    labels = rng.integers(-1, CLASSES, count).astype(np.int32)
    odd = (labels + 5, labels - 3, labels.astype(float), labels > 0, np.eye(CLASSES)[labels], labels[:-1], "0", None)
    return _choose(rng, labels, labels.astype(np.int64), labels.tolist(), *odd, odds=0.8)


def _radius(rng, count):
    odd = (np.nan, -0.1, np.inf, "8/255", None, True, [0.1] * 5, [[0.1]], 8, 1e30, 1e-30, np.float64(0.1), 1e39)
    eps = _choose(rng, float(rng.uniform(0, 0.5)), 0.0, rng.uniform(0, 0.5, count), *odd, odds=0.7)
    return eps


def _model(rng, shape):
    """Returns the name and the function of a model, with logits that are awkward or are no logits at all."""
    weights = np.random.default_rng(0).standard_normal((3, CLASSES)).astype(np.float32)

    def linear(x):
        return jnp.mean(x, axis=(1, 2)) @ weights[: x.shape[-1]]

    models = {
        "linear": linear,
        "confident": lambda x: 1e3 * linear(x),
        "root": lambda x: linear(x ** (1 / 2.2)),
        "length": lambda x: linear(x) * jnp.sqrt(jnp.sum(jnp.square(x - 0.5), axis=(1, 2, 3)))[:, None],
        "logarithm": lambda x: linear(jnp.log(x)),
        "quotient": lambda x: linear(x / x),
        "huge": lambda x: 1e38 * linear(x),
        "constant": lambda x: 0.0 * linear(x),
        "nan": lambda x: jnp.nan * linear(x),
        "step": lambda x: jnp.round(linear(x)),
    }
    wrong = {
        "tuple": lambda x: (linear(x), x),
        "dict": lambda x: {"logits": linear(x)},
        "vector": lambda x: linear(x)[:, 0],
        "sum": lambda x: jnp.sum(linear(x), axis=0),
        "deep": lambda x: linear(x)[..., None],
        "first": lambda x: linear(x)[:1],
        "integers": lambda x: linear(x).astype(jnp.int32),
        "single": lambda x: linear(x)[:, :1],
        "none": lambda x: None,
    }
    table = models if rng.random() < 0.8 else wrong
    name = rng.choice(list(table))
    return name, table[name]


def _are_adversarial(found, images, eps, norm, *, project=True):
    """Yields what has to hold of adversarial images."""
    images = np.asarray(images, np.float32)
    found = np.asarray(found)
    yield found.dtype == np.float32 and found.shape == images.shape, f"{found.dtype} {found.shape}"
    yield bool(np.isfinite(found).all()), "not finite"
    yield found.size == 0 or (found.min() >= 0 and found.max() <= 1), "outside of [0, 1]"
    if project and found.size:
        moves = (found.astype(np.float64) - images).reshape(len(images), -1)
        lengths = np.linalg.norm(moves, ord={"l1": 1, "l2": 2, "linf": np.inf}[norm], axis=1)
        limit = np.asarray(eps, np.float64)
        yield bool(np.all(lengths <= limit * (1 + 1e-5) + 1e-5)), f"{lengths} from the images, eps {eps}"


def _attack(rng, name, options, norm_names=NORMS):
    shape = _shape(rng)
    images, labels = _images(rng, shape), _labels(rng, shape[0])
    norm = _choose(rng, str(rng.choice(norm_names)), "l3", None, odds=0.95)
    eps = _radius(rng, shape[0])
    model_name, model = _model(rng, shape)
    if "targets" in options:
        options = {**options, "targets": _labels(rng, shape[0])}
    key = _choose(rng, jax.random.key(0), jax.random.PRNGKey(1), 3, None, odds=0.9)

    def call():
        found = getattr(attacks, name)(key, model, images, labels, eps=eps, norm=norm, **options)
        if name == "autoattack":
            yield bool(np.all(found.clean >= found.robust)), "robust where the clean image is not classified"
            yield 0 <= found.robust_accuracy <= found.clean_accuracy <= 1, "accuracies"
            found = found.adversarial
        yield from _are_adversarial(found, images, eps, norm, project=options.get("project", True))

    kinds = f"{type(images).__name__} {getattr(images, 'dtype', '')} {np.shape(images)}"
    return f"{model_name}, {kinds}, labels {labels}, eps={eps}, norm={norm}, {options}", call


def _count(rng):
    return _choose(rng, int(rng.integers(1, 4)), 0, -1, 2.0, "3", None, np.int64(2), odds=0.9)


def _pgd(rng):
    options = {"num_steps": _count(rng), "random_start": bool(rng.integers(2)), "use_best": bool(rng.integers(2))}
    options |= {"num_restarts": 2} if options["random_start"] and rng.integers(2) else {}
    options |= {"targets": None} if rng.random() < 0.2 else {}
    return _attack(rng, "pgd", options, ("l2", "linf"))


def _fgsm(rng):
    options = {"noise": _choose(rng, 0.0, 1.0, 2.0, -1.0, np.nan, "1", odds=0.5), "project": bool(rng.integers(2))}
    return _attack(rng, "fgsm", options, ("l2", "linf"))


def _apgd(rng):
    options = {"num_steps": _count(rng), "loss": str(rng.choice(["ce", "dlr"]))}
    return _attack(rng, "apgd", options)


def _fab(rng):
    return _attack(rng, "fab", {"num_steps": _count(rng), "targets": None})


def _square(rng):
    return _attack(rng, "square", {"num_queries": _count(rng)})


def _autoattack(rng):
    names = ("apgd-ce", "fab-t", "square")
    options = {
        "num_steps": 2,
        "num_queries": 2,
        "num_targets": 1,
        "attacks": names,
        "batch_size": 2,
        "smallest_batch": 2,
    }
    return _attack(rng, "autoattack", options)


def _numbers(values, shape, *, allow_nan=False, low=-np.inf, high=np.inf):
    values = np.asarray(values)
    yield values.dtype == np.float32 and values.shape == shape, f"{values.dtype} {values.shape}, not {shape}"
    if not allow_nan:
        yield bool(np.isfinite(values).all()), f"not finite: {values}"
        yield bool(np.all((values >= low) & (values <= high))), f"not in {low} to {high}: {values}"


def _is_nan(*arrays):
    return any(not np.isfinite(np.asarray(a, np.float32)).all() for a in arrays)


def _features(x):
    return {"a": x[:, ::2, ::2] * 2.0, "v": jnp.mean(x, axis=(1, 2))}


def _features_fn(rng):
    wrong = (lambda x: (x, _features(x)), lambda x: x, lambda x: {"b": x}, lambda x: {"a": jnp.sum(x)})
    return _choose(rng, _features, *wrong, odds=0.9)


def _decode(z):
    return jnp.clip(jnp.repeat(jnp.repeat(z / 2.0, 2, axis=1), 2, axis=2), 0.0, 1.0)


def _pair_of_images(rng):
    shape = _shape(rng)
    other = shape if rng.random() < 0.9 else _shape(rng)
    return shape, _images(rng, shape), _images(rng, other)


def _metric(rng):
    shape, x, y = _pair_of_images(rng)
    features_fn = _features_fn(rng)
    layers = _choose(rng, ("a",), ("a", "a"), ("c",), (), odds=0.8)
    reduction = str(rng.choice(["mean", "sum"]))
    table = {
        "psnr": lambda: metrics.psnr(x, y),
        "ssim": lambda: metrics.ssim(x, y),
        "mean_squared_error": lambda: metrics.mean_squared_error(x, y),
        "euclidean_distance": lambda: metrics.euclidean_distance(x, y),
        "pixel_loss": lambda: losses.pixel_loss(x, y),
        "lpips": lambda: metrics.lpips(features_fn, x, y, layers=layers),
        "gram_loss": lambda: metrics.gram_loss(features_fn, x, y, layers=layers, reduction=reduction),
        "amortized_scores": lambda: anomaly.amortized_scores(
            _decode, features_fn, x, layer="a", pixel_weight=1.0, feature_weight=1.0
        ),
        "fixed_reconstruction_scores": lambda: anomaly.fixed_reconstruction_scores(
            features_fn, x, y, layer="a", pixel_weight=1.0, feature_weight=1.0
        ),
    }  # fmt: skip
    name = str(rng.choice(list(table)))

    def call():
        values = table[name]()
        yield from _numbers(values, (len(x),), allow_nan=_is_nan(x, y), high=200 if name == "psnr" else np.inf)

    return f"{name}, {np.shape(x)}, {np.shape(y)}, {layers}", call


def _logits(rng, count):
    logits = rng.normal(size=(count, CLASSES)).astype(np.float32)
    odd = (
        logits.astype(int),
        logits[:, :1],
        logits[0],
        (logits,),
        {"a": logits},
        logits.tolist(),
        logits[:0],
        1e30 * logits,
    )
    return _choose(rng, logits, logits.astype(np.float64), *odd, odds=0.8)


def _classification(rng):
    count = int(rng.integers(1, 4))
    logits, others, labels = _logits(rng, count), _logits(rng, count), _labels(rng, count)
    table = {
        "cross_entropy": lambda: losses.cross_entropy(logits, labels),
        "correct": lambda: metrics.correct(logits, labels),
        "trades_loss": lambda: losses.trades_loss(logits, others, labels, beta=_choose(rng, 6.0, np.nan, -1, odds=0.8)),
        "margin_loss": lambda: losses.margin_loss(logits, labels),
        "kl_divergence": lambda: losses.kl_divergence(logits, others),
    }
    name = str(rng.choice(list(table)))
    return f"{name}, {logits}, {others}, {labels}", lambda: _numbers(table[name](), (len(logits),))


def _application(rng):
    shape, x, y = _pair_of_images(rng)
    key, features_fn, steps = jax.random.key(0), _features_fn(rng), _count(rng)
    latent = (shape[0], -(-shape[1] // 2), -(-shape[2] // 2), shape[3])
    levels = [transfer.Level("a", features_fn, _decode)]
    alpha = _choose(rng, float(rng.random()), 2.0, -1.0, np.nan, "1", odds=0.8)
    options = {"variant": str(rng.choice(wct.VARIANTS)), "method": str(rng.choice(wct.METHODS)), "alpha": alpha}
    table = {
        "attack_scores": lambda: anomaly.attack_scores(
            key, lambda x: jnp.sqrt(jnp.sum(x, axis=(1, 2, 3))), x, np.arange(len(x)) % 2, eps=0.1, num_steps=steps
        ),
        "latent_search": lambda: anomaly.latent_search(
            key, _decode, features_fn, x, latent_shape=latent[1:], layer="a", pixel_weight=1.0, feature_weight=1.0,
            num_steps=steps, learning_rate=0.01, init=_choose(rng, None, np.zeros(latent), np.zeros(2), odds=0.5),
        ).reconstructions,
        "invert": lambda: enlarging.invert(_decode, features_fn, x, layer="a"),
        "invert_padded": lambda: enlarging.invert_padded(_decode, features_fn, x, layer="a", multiple=2, edge=steps),
        "invert_by_optimization": lambda: representation_inversion.invert_by_optimization(
            features_fn, x, np.ones(latent), layer="a", num_steps=steps
        ),
        "stylize": lambda: transfer.stylize(levels, x, y, **options),
        "keep_chroma": lambda: wct.keep_chroma(x, y),
        "match_colors": lambda: wct.match_colors(x, wct.color_moments(y)),
    }  # fmt: skip
    name = str(rng.choice(list(table)))
    described = f"{name}, {np.shape(x)}, {np.shape(y)}, {options}, {steps}"
    return described, lambda: _numbers(table[name](), np.shape(x), low=0.0, high=1.0)


def _restoration(rng):
    shape, x, y = _pair_of_images(rng)
    key = _choose(
        rng, jax.random.key(0), jax.random.PRNGKey(1), 0, None, jax.random.split(jax.random.key(0), 7), odds=0.8
    )
    starts = _choose(rng, np.ones((shape[0], 2)), np.ones((shape[0], 3, 2)), np.full((shape[0], 2), np.nan), np.ones(2))
    name, steps = str(rng.choice([*restoration.OPERATORS, "none"])), _count(rng)
    share = _choose(rng, float(rng.random()), 2.0, -1.0, np.nan, "1", odds=0.8)
    options = {"share": share} if name in ("mask", "sensing") else {"sigma": share} if "noise" in name else {}
    threshold = _choose(rng, 0.5, np.nan, 2.0, odds=0.9)

    def decode(z):
        return jnp.broadcast_to(jax.nn.sigmoid(jnp.mean(z, axis=1))[:, None, None, None], (len(z), *shape[1:]))

    def degrade():
        operator = restoration.build_operator(name, **options)
        keys = restoration.image_keys(key, jnp.arange(len(x) if hasattr(x, "__len__") else 1))
        yield from _numbers(operator.degrade(keys, x), np.shape(x))

    def pores():
        result = restoration.compare_pores(np.asarray(x)[..., 0], np.asarray(y)[..., 0], threshold=threshold)
        yield 0 <= result.porosity <= 1 and 0 <= result.true_porosity <= 1, str(result)

    def attribute():
        rule = restoration.make_rule(statistic="brightness", threshold=threshold)
        yield restoration.compare_attribute(x, y, rule).count == len(x), "images are missing"

    def solve():
        losses = restoration.solve(decode, lambda images: images, x, starts, truth=y, num_steps=steps).losses
        yield from _numbers(losses, np.shape(x)[:1], low=0.0)

    table = {"degrade": degrade, "solve": solve, "compare_attribute": attribute}
    if np.ndim(x) == np.ndim(y) == 4:
        table["compare_pores"] = pores
    call = str(rng.choice(list(table)))
    return f"{call}, {np.shape(x)}, {np.shape(y)}, {key}, {np.shape(starts)}, {name}, {options}, {steps}", table[call]


def _distances(rng):
    size = float(10.0 ** rng.integers(-15, 15))
    count, features, k = int(rng.integers(1, 9)), int(rng.integers(1, 9)), int(rng.integers(0, 5))
    references = (size * (rng.normal(size=(count, features)) + rng.choice([0, 100]))).astype(np.float32)
    rows = references[: int(rng.integers(0, count + 1))] * np.float32(1.001)

    def call():
        found = np.asarray(anomaly.nearest_neighbor_distances(rows, references, k=k))
        yield from _numbers(found, (len(rows),), low=0.0)
        differences = rows[:, None].astype(np.float64) - references[None].astype(np.float64)
        expected = np.sort(np.linalg.norm(differences, axis=2), axis=1)[:, :k].mean(axis=1)
        yield bool(np.allclose(found, expected, rtol=1e-4, atol=0)), f"{found}, not {expected}"

    return f"{size}, {rows.shape}, {references.shape}, k={k}", call


def _lengths(rng):
    size, norm = float(10.0 ** rng.integers(-30, 30)), str(rng.choice(NORMS))
    x = (size * rng.normal(size=(2, int(rng.integers(1, 5)), 2))).astype(np.float32)

    def call():
        found = np.asarray(norms.norm(x, norm))
        expected = np.linalg.norm(
            x.astype(np.float64).reshape(2, -1), ord={"l1": 1, "l2": 2, "linf": np.inf}[norm], axis=1
        )
        yield bool(np.allclose(found, expected, rtol=1e-4, atol=0)), f"{found}, not {expected}"

    return f"{size}, {norm}, {x.shape}", call


_CALLS = {
    "pgd": _pgd,
    "fgsm": _fgsm,
    "apgd": _apgd,
    "fab": _fab,
    "square": _square,
    "autoattack": _autoattack,
    "metric": _metric,
    "classification": _classification,
    "application": _application,
    "restoration": _restoration,
    "nearest_neighbor_distances": _distances,
    "norm": _lengths,
}
