"""Checks of the arguments of public functions: images, labels, logits, features, radii and other numbers.

Shapes and dtypes are always checked, values only of concrete arrays: outside of jit, and inside of it those that are
not traced. A compiled function therefore contains no check. Arrays distributed over processes count as traced.

The functions `as_*` return float32 (int32 for labels), for any dtype of the input and any setting of JAX.
"""

import inspect
import math
import numbers
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import RadiusWarning, UserError, unknown
from arinv.types import Array, ArrayLike, FeaturesFn, LogitsFn

# For images that noise or a generator moves out of [0, 1]; grey levels up to 255 are still rejected.
LOOSE_BOUNDS = (-9.0, 10.0)
_TOLERANCE = 1e-6  # of a range, for float32 rounding


def is_concrete(array: Any) -> bool:
    """Returns whether the values of an array can be read.

    Args:
      array: a number or an array.

    Returns:
      False for traced arrays and those distributed over processes.
    """
    if isinstance(array, jax.core.Tracer):
        return False
    return not isinstance(array, jax.Array) or array.is_fully_addressable


def check_images(
    images: ArrayLike,
    name: str = "images",
    *,
    finite: bool = True,
    bounds: tuple[float, float] = (0.0, 1.0),
    uint8: bool = False,
) -> ArrayLike:
    """Checks images and returns them unchanged.

    Args:
      images: floating point [B, H, W, C] in [0, 1], C 1 or 3; an array or nested lists.
      name: their name in errors.
      finite: raise for NaN and infinity; False where the result is then NaN.
      bounds: the allowed range.
      uint8: also accept uint8 in 0..255.

    Returns:
      [B, H, W, C], a NumPy array unless `images` is a JAX array.

    Raises:
      UserError: another rank, layout, dtype or range.
    """
    images = as_array(images, name)
    shape, dtype = tuple(images.shape), images.dtype
    if len(shape) != 4:
        raise UserError(f"{name} must be [batch, height, width, channels]; got shape {shape}")
    if shape[-1] not in (1, 3):
        hint = ": transpose them with (0, 2, 3, 1)" if shape[1] in (1, 3) else ""
        raise UserError(f"{name} must have 1 or 3 channels in the last axis; got shape {shape}{hint}")
    if 0 in shape[1:]:
        raise UserError(f"{name} must be 1 px or more high and wide; got shape {shape}")
    if uint8 and dtype == np.uint8:
        return images
    if not jnp.issubdtype(dtype, jnp.floating):
        hint = ": use arinv.ops.images.to_float" if dtype == np.uint8 else ""
        allowed = "uint8, or floating point" if uint8 else "floating point"
        raise UserError(f"{name} must be {allowed} in [0, 1]; got {dtype}{hint}")
    if is_concrete(images) and shape[0]:
        _check_range(images, name, finite, bounds)
    return images


def as_images(images: ArrayLike, name: str = "images", **options: Any) -> Array:
    """Checks images and returns them as float32.

    Args:
      images: see `check_images`.
      name: their name in errors.
      **options: other arguments of `check_images`.

    Returns:
      float32 [B, H, W, C].

    Raises:
      UserError: as `check_images`.
    """
    return jnp.asarray(check_images(images, name, **options), jnp.float32)


def as_image_pair(
    images_a: ArrayLike,
    images_b: ArrayLike,
    names: tuple[str, str] = ("reconstructions", "images"),
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[Array, Array]:
    """Checks two batches of images that are to be compared and returns them as float32.

    NaN and infinity are accepted: a comparison with them is NaN.

    Args:
      images_a: floating point [B, H, W, C] in [0, 1].
      images_b: floating point, of the same shape and in [0, 1].
      names: their names in errors.
      bounds: the allowed range of the first batch.

    Returns:
      Two float32 [B, H, W, C].

    Raises:
      UserError: as `as_images`, or different shapes.
    """
    pair = tuple(as_array(x, name) for x, name in zip((images_a, images_b), names, strict=True))
    if pair[0].shape != pair[1].shape:
        raise UserError(
            f"cannot compare {names[0]} {pair[0].shape} with {names[1]} {pair[1].shape}: both must be [B, H, W, C] of "
            "one size; resize one of them first"
        )
    ranges = (bounds, (0.0, 1.0))
    pair = (as_images(x, n, finite=False, bounds=b) for x, n, b in zip(pair, names, ranges, strict=True))
    return tuple(without_infinity(x) for x in pair)


def without_infinity(values: Array) -> Array:
    """Returns an array with NaN in place of infinity, so that what is computed from it is NaN.

    Args:
      values: floating point, of any shape.

    Returns:
      An array of the same shape.
    """
    return jnp.where(jnp.isinf(values), jnp.nan, values)


def as_labels(
    labels: ArrayLike, *, batch_size: int, num_classes: int | None = None, name: str = "labels", padding: bool = True
) -> Array:
    """Checks class numbers and returns them as int32.

    Args:
      labels: integers [B] from 0; -1 is padding.
      batch_size: number of images, B.
      num_classes: K; None: not checked.
      name: their name in errors.
      padding: whether -1 is allowed.

    Returns:
      int32 [B].

    Raises:
      UserError: another shape, not integers, or (if concrete) below -1 or not below `num_classes`.
    """
    labels = as_array(labels, name)
    if not labels.size and labels.shape == (batch_size,):
        return jnp.zeros((0,), jnp.int32)
    if labels.shape != (batch_size,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        one_hot = ": take the argmax of one-hot labels" if labels.ndim == 2 and labels.shape[0] == batch_size else ""
        kind = f"{labels.dtype} of shape {labels.shape}{one_hot}"
        raise UserError(f"{name} must be integers, one per image ({batch_size},); got {kind}")
    if is_concrete(labels):
        values, least = np.asarray(labels), -1 if padding else 0
        if values.min() < least:
            allowed = "classes from 0, or -1 for padding" if padding else "classes from 0"
            raise UserError(f"{name} must be {allowed}; got {values.min()}")
        limit = np.iinfo(np.int32).max + 1 if num_classes is None else num_classes
        if values.max() >= limit:
            raise UserError(
                f"{name} must be 0 to {limit - 1} for {limit} classes; got {values.max()}: number them from 0"
            )
    return jnp.asarray(labels, jnp.int32)


def as_logits(logits: Any, *, batch_size: int | None = None, minimum: int = 1, name: str = "logits") -> Array:
    """Checks the shape and dtype of logits and returns them as float32.

    Args:
      logits: floating point [B, K].
      batch_size: B; None: not checked.
      minimum: the smallest allowed K.
      name: their name in errors, such as the function that returns them.

    Returns:
      float32 [B, K].

    Raises:
      UserError: a tuple, a dict or another type that is not an array, another shape, or not floating point.
    """
    if isinstance(logits, tuple | list | dict) or not hasattr(logits, "shape"):
        kind, hint = type(logits).__name__, ""
        if isinstance(logits, tuple | list) and logits:
            hint = ": where the model returns (logits, features), take `lambda x: model(x)[0]`"
        if isinstance(logits, dict) and logits:
            hint = f": take one of {', '.join(map(repr, logits))}"
        raise UserError(f"{name} must be one array [B, K]; got a {kind}{hint}")
    shape = tuple(logits.shape)
    rows = "B" if batch_size is None else batch_size
    if len(shape) != 2 or batch_size not in (None, shape[0]):
        raise UserError(f"{name} must have shape [B, K], here ({rows}, K); got {shape}")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UserError(f"{name} must be floating point; got {logits.dtype}")
    if shape[1] < minimum:
        hint = ": write a single logit z of two classes as (0, z)" if shape[1] == 1 else ""
        raise UserError(f"{name} must be of {minimum} classes or more; got {shape[1]}{hint}")
    return jnp.asarray(logits, jnp.float32)


def call(function: Callable[[Array], Any], images: Array, name: str, *, of: str = "images [B, H, W, C]") -> Any:
    """Returns what a user-supplied function returns for images that may be traced.

    Args:
      function: images [B, H, W, C] -> anything.
      images: the argument of the function; may be traced.
      name: name of the function in errors.
      of: description of its argument in errors.

    Returns:
      Its result.

    Raises:
      UserError: not callable, or a function that needs the values of its images, as those of NumPy do.
    """
    check_callable(function, name, of=of)
    try:
        return function(images)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise UserError(
            f"{name} cannot be traced by JAX ({type(error).__name__}): write it in jax.numpy, without NumPy functions, "
            f"`float` or `if` of values that follow from the {of.split()[0]}"
        ) from error


def decode(
    decode_fn: Callable[[Array], Any],
    features: Array,
    name: str = "decode_fn",
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Array:
    """Returns the images that a user-supplied function returns for features that may be traced.

    Args:
      decode_fn: features [B, ...] -> images [B, H, W, C] in [0, 1].
      features: [B, ...], the argument of `decode_fn`; may be traced.
      name: name of the function in errors.
      bounds: the allowed range.

    Returns:
      float32 [B, H, W, C].

    Raises:
      UserError: as `call`, or a result that is not [B, H, W, C], floating point and (if concrete) in the range.
    """
    images = call(decode_fn, features, name, of="features [B, ...]")
    result = f"what {name} returns"
    if isinstance(images, tuple | list | dict) or not hasattr(images, "shape"):
        raise UserError(f"{result} must be images [B, H, W, C] in [0, 1]; got a {type(images).__name__}")
    images = as_images(images, result, finite=False, bounds=bounds)
    if images.shape[0] != features.shape[0]:
        raise UserError(f"{result} must be {features.shape[0]} images, one for each row; got {images.shape[0]}")
    return images


def checked_logits_fn(logits_fn: LogitsFn, *, batch_size: int, **classes: ArrayLike | None) -> LogitsFn:
    """Returns a model that checks its logits, and class numbers against their number, when it is traced.

    Args:
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K].
      batch_size: B.
      **classes: name in errors -> class numbers, int [B], -1 for padding, or None.

    Returns:
      The same, with float32 logits.

    Raises:
      UserError: not callable; when called, as `call`, `as_logits` and `as_labels`.
    """
    check_callable(logits_fn, "logits_fn", of="images [B, H, W, C]")

    def checked(images):
        logits = as_logits(
            call(logits_fn, images, "logits_fn"), batch_size=batch_size, minimum=2, name="what logits_fn returns"
        )
        for name, values in classes.items():
            if values is not None and is_concrete(values):
                as_labels(values, batch_size=batch_size, num_classes=logits.shape[1], name=name)
        return logits

    return checked


def check_layers(layers: Any) -> None:
    """Checks that names of layers are several, and not one.

    Args:
      layers: names of features.

    Raises:
      UserError: one name, or nothing with a length.
    """
    if isinstance(layers, str) or not hasattr(layers, "__len__"):
        name = layers if isinstance(layers, str) else "conv5"
        raise UserError(f'layers must be names in a tuple, such as ("{name}",); got {layers!r}')


def layer_features(features_fn: FeaturesFn, images: ArrayLike, layers: Sequence[str]) -> list[Array]:
    """Returns some of the named features of images.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      images: float32 [B, H, W, C] in [0, 1].
      layers: names of the features.

    Returns:
      float32 [B, ...] for each layer.

    Raises:
      UserError: as `call`, features that are not a mapping from names to arrays [B, ...], or a layer that is not among
        them.
    """
    features = call(features_fn, images, "features_fn")
    if not isinstance(features, Mapping):
        kind, hint = type(features).__name__, ""
        if isinstance(features, tuple):
            hint = ": where the model returns (logits, features), take `lambda x: model(x)[1]`"
        raise UserError(f"features_fn must return named features, {{name: [B, ...]}}; got a {kind}{hint}")
    for layer in layers:
        if not isinstance(layer, str) or layer not in features:
            raise unknown("layer", layer, features)
        shape = jnp.shape(features[layer])
        if len(shape) < 2 or shape[0] != images.shape[0]:
            raise UserError(f"feature {layer!r} must be [B, ...] of {images.shape[0]} images; got shape {shape}")
    return [jnp.asarray(features[layer], jnp.float32) for layer in layers]


def as_vector(values: ArrayLike, count: int, name: str) -> Array:
    """Checks that there is one number per example and returns them as float32.

    Args:
      values: [B], of any dtype.
      count: number of examples, B.
      name: their name in errors.

    Returns:
      float32 [B].

    Raises:
      UserError: not numbers, or another shape.
    """
    values = as_array(values, name)
    if values.shape != (count,):
        raise UserError(f"{name} must be one number per example ({count},); got shape {values.shape}")
    return jnp.asarray(values, jnp.float32)


def as_scalar(value: ArrayLike, name: str) -> Array:
    """Checks that a value is one number, which may be traced, and returns it as float32.

    Args:
      value: a number, or an array of shape [].
      name: its name in errors.

    Returns:
      float32 [].

    Raises:
      UserError: not a number, or an array of another shape.
    """
    value = as_floats(value, name)
    if value.shape:
        raise UserError(f"{name} must be one number; got shape {value.shape}")
    return value


def as_numbers(values: ArrayLike, name: str) -> np.ndarray:
    """Checks that values are real numbers and returns them as float64, on the host.

    Args:
      values: numbers, of any shape; NaN and infinity are allowed.
      name: their name in errors.

    Returns:
      float64, of the same shape.

    Raises:
      UserError: text, complex numbers, objects or ragged lists, or traced numbers.
    """
    return on_host(as_array(values, name), name).astype(np.float64)


def on_host(array: ArrayLike, name: str) -> np.ndarray:
    """Returns a checked array as a NumPy array, in a function that runs on the host.

    Args:
      array: such as `check_images` returns it.
      name: its name in errors.

    Returns:
      The array, of its own type.

    Raises:
      UserError: its values cannot be read, as those of traced arrays.
    """
    if not is_concrete(array):
        raise UserError(f"{name} must have values that can be read: this function runs on the host, outside of jit")
    return np.asarray(array)


def as_flags(values: ArrayLike, name: str) -> np.ndarray:
    """Checks that values are true or false and returns them as bool, on the host.

    Args:
      values: True or False, or 1 or 0.
      name: their name in errors.

    Returns:
      bool, of the same shape.

    Raises:
      UserError: other values, such as -1 of padding.
    """
    array = as_numbers(values, name)
    if not np.isin(array, (0, 1)).all():
        raise UserError(f"{name} must be True or False, or 1 or 0; remove padding such as -1 first")
    return array.astype(bool)


def as_indices(indices: ArrayLike | None, count: int | None = None) -> Array:
    """Checks the dataset indices of images, which determine their random starts.

    Args:
      indices: integers [B]; None for 0, 1, ..., B - 1, with a count.
      count: number of images, B; None for any.

    Returns:
      Integers [B].

    Raises:
      UserError: another shape, or not integers.
    """
    is_default = indices is None and count is not None
    indices = jnp.arange(count) if is_default else jnp.asarray(as_array(indices, "indices"))
    if count is None:
        count = indices.size
    if indices.shape != (count,) or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise UserError(
            f"indices must be integers, one per image ({count},); got {indices.dtype} of shape {indices.shape}"
        )
    return indices


def as_finite(values: ArrayLike, name: str) -> Array:
    """Checks that an array has finite numbers only, if they can be read, and returns it as float32.

    Args:
      values: numbers, of any shape.
      name: their name in errors.

    Returns:
      float32, of the same shape.

    Raises:
      UserError: not numbers, or NaN or infinity among them.
    """
    values = as_floats(values, name)
    if is_concrete(values) and not np.isfinite(np.asarray(values)).all():
        raise UserError(f"{name} must be finite; got NaN or infinity")
    return values


def as_floats(values: ArrayLike, name: str) -> Array:
    """Checks that an array has numbers and returns it as float32; NaN is allowed.

    Args:
      values: numbers, of any shape; may be traced.
      name: their name in errors.

    Returns:
      float32, of the same shape.

    Raises:
      UserError: text, objects or ragged lists.
    """
    return jnp.asarray(as_array(values, name), jnp.float32)


def check_callable(function: Any, name: str, *, of: str = "") -> None:
    """Checks that an argument is a function.

    Args:
      function: the argument.
      name: its name in errors.
      of: description of the function's argument in errors; empty for none.

    Raises:
      UserError: it cannot be called, or it is a module without its variables.
    """
    has_variables_apart = hasattr(function, "init") and hasattr(function, "apply")  # Flax's modules can be called
    if callable(function) and not (has_variables_apart and getattr(function, "scope", None) is None):
        return
    hint = ""
    if has_variables_apart:
        hint = ": take `lambda x: module.apply(variables, x)`"
    elif hasattr(type(function), name):  # a trained network
        hint = f": take its {name}"
    raise UserError(f"{name} must be a function{of and f' of {of}'}; got {type(function).__name__}{hint}")


def keyword_options(function: Callable) -> dict[str, Any]:
    """Returns the keyword-only parameters of a function with their defaults, `inspect.Parameter.empty` for none.

    Args:
      function: such as a row of a table, whose options have a config's names.

    Returns:
      Name -> default.
    """
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def check_shape(value: Any, name: str) -> tuple[int, ...]:
    """Checks the shape of an array and returns it.

    Args:
      value: whole numbers of 1 or more.
      name: its name in errors.

    Returns:
      The numbers as a tuple of int.

    Raises:
      UserError: another type, or a number below 1.
    """
    try:
        return tuple(check_count(side, name) for side in value)
    except (TypeError, UserError):
        raise UserError(f"{name} must be whole numbers of 1 or more, such as (4, 4, 128); got {value!r}") from None


def as_radius(value: ArrayLike | float, *, batch_size: int | None, name: str = "eps", norm: str | None = None) -> Array:
    """Checks a radius or a step size and returns it as float32.

    Args:
      value: a number of 0 or more, or one per example [B]; in units of the images.
      batch_size: number of examples, B; None: only a single number is allowed.
      name: its name in errors.
      norm: the attack's norm, to warn of a radius that restricts nothing, such as 8 in linf; None: no warning.

    Returns:
      float32 [] or [B].

    Raises:
      UserError: another shape or dtype, or (if concrete) negative or not finite in float32.
    """
    radius = as_array(value, name)
    if not (jnp.issubdtype(radius.dtype, jnp.floating) or jnp.issubdtype(radius.dtype, jnp.integer)):
        raise UserError(f"{name} must be a number, such as 8/255; got {value!r}")
    if radius.shape not in ((), (batch_size,)):
        several = "" if batch_size is None else f" or one per example ({batch_size},)"
        raise UserError(f"{name} must be a number{several}; got shape {radius.shape}")
    if is_concrete(radius):
        values = np.asarray(radius, np.float64)
        if not np.all((values >= 0) & (values <= np.finfo(np.float32).max)):
            raise UserError(
                f"{name} must be finite and at least 0; got {value}: give it in units of the images, such as 8/255"
            )
        if norm and (text := radius_warning(values, norm)):
            warnings.warn(f"{name}={text}", RadiusWarning, stacklevel=4)
    return jnp.asarray(radius, jnp.float32)


def radius_warning(eps: ArrayLike | float, norm: str) -> str:
    """Returns why a radius does not restrict an attack, or "" where it does.

    Args:
      eps: one or more radii, in units of the images.
      norm: "l1", "l2" or "linf".

    Returns:
      Text that continues "eps=".
    """
    largest = float(np.max(eps, initial=0.0))
    if norm != "linf" or largest < 1:
        return ""
    meant = f"; did you mean {largest:g}/255?" if 1 < largest <= 255 else ""
    return f"{largest:g} in linf reaches every image in [0, 1]: nothing can be robust there{meant}"


def check_flag(value: Any, name: str) -> bool:
    """Checks that a value is true or false and returns it.

    Args:
      value: the value, such as an option.
      name: its name in errors.

    Returns:
      The value as a bool.

    Raises:
      UserError: it is something else.
    """
    if not isinstance(value, bool | np.bool_):
        raise UserError(f"{name} must be true or false; got {value!r}")
    return bool(value)


def check_count(value: Any, name: str, *, minimum: int = 1) -> int:
    """Checks an integer and returns it.

    Args:
      value: the value, such as a number of steps.
      name: its name in errors.
      minimum: the smallest allowed value.

    Returns:
      The number as an int.

    Raises:
      UserError: no integer, or one that is too small.
    """
    try:
        count = None if isinstance(value, bool) else operator.index(value)  # NumPy's integers pass
    except TypeError:
        count = None
    if count is None:
        raise UserError(f"{name} must be a whole number of {minimum} or more; got {value!r}")
    if count < minimum:
        raise UserError(f"{name} must be at least {minimum}; got {value!r}")
    return count


def check_number(value: Any, name: str, *, minimum: float = -math.inf, maximum: float = math.inf) -> Any:
    """Checks that a number is finite and in a range and returns it; a traced one is not checked.

    Args:
      value: the value, such as a weight.
      name: its name in errors.
      minimum: the smallest allowed value.
      maximum: the largest allowed value.

    Returns:
      The number, unchanged.

    Raises:
      UserError: no finite number in this range.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if isinstance(value, np.ndarray | jax.Array) and value.shape == () and jnp.issubdtype(value.dtype, jnp.number):
        is_number, value = True, value.item()
    if not is_number or not _is_finite(value) or not minimum <= value <= maximum:
        limits = {
            (True, True): "",
            (False, True): f" of at least {minimum:g}",
            (True, False): f" of at most {maximum:g}",
        }
        limit = limits.get((minimum == -math.inf, maximum == math.inf), f" from {minimum:g} to {maximum:g}")
        raise UserError(f"{name} must be a finite number{limit}; got {value!r}")
    return value


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def as_dtype(dtype: Any) -> np.dtype:
    """Checks the type of a computation and returns it.

    Args:
      dtype: the type, such as jnp.float32 or "bfloat16".

    Returns:
      The same type as a `numpy.dtype`.

    Raises:
      UserError: not a floating point type.
    """
    try:
        value = jnp.dtype(dtype)
    except TypeError:
        value = None
    if dtype is None or value is None or not jnp.issubdtype(value, jnp.floating):
        raise UserError(f"dtype must be floating point, such as 'float32' or 'bfloat16'; got {dtype!r}")
    return value


def as_array(value: Any, name: str) -> ArrayLike:
    """Checks that a value is an array of real numbers, or can be made one.

    Args:
      value: a JAX or NumPy array, a number, nested lists, or an array of another library.
      name: its name in errors.

    Returns:
      A JAX array unchanged, a list of traced numbers as one, anything else as a NumPy array.

    Raises:
      UserError: text, dates, complex numbers, objects, ragged lists, or an array with a mask.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise UserError(f"{name} must be an array without a mask; take the values that count, or fill the others")
    if isinstance(value, jax.Array | np.ndarray):
        array = value
    else:
        try:
            array = jnp.asarray(value) if _is_traced(value) else np.asarray(value)
        except Exception:  # ragged lists; arrays of other libraries raise errors of their own
            array = None
    if array is None or not _is_real(array.dtype):
        got = f"{array.dtype} of shape {array.shape}" if isinstance(value, jax.Array | np.ndarray) else _short(value)
        raise UserError(f"{name} must be an array of numbers; got {got}")
    return array


def _is_traced(value: Any) -> bool:
    """Returns whether a value is a list with traced numbers, or an object that JAX alone makes an array of."""
    return hasattr(value, "__jax_array__") or any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def _is_real(dtype: Any) -> bool:
    kinds = (jnp.bool_, jnp.integer, jnp.floating)  # those of JAX, which has more than NumPy
    is_duration = jnp.issubdtype(dtype, np.timedelta64)  # an integer to NumPy
    return not is_duration and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _check_range(images: ArrayLike, name: str, finite: bool, bounds: tuple[float, float]) -> None:
    with jax.ensure_compile_time_eval():  # also inside of jit
        low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        if finite:
            raise UserError(f"{name} must be in [0, 1]; got values that are not finite (NaN or infinity)")
        values = np.asarray(images, np.float32)
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else bounds
    if low < bounds[0] - _TOLERANCE or high > bounds[1] + _TOLERANCE:
        advice = "clip them"
        if (high > 1.5) != (low < -0.5):
            advice = "divide by 255" if high > 1.5 else "map them from [-1, 1] with arinv.ops.images.from_pm1"
        raise UserError(f"{name} must be in [0, 1]; got {low:.6g} to {high:.6g}: {advice}")
