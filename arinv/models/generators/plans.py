"""Plans of generators as data, and every published one.

A plan lists the steps from a feature of an encoder to the image, and the options that all steps share: slope of the
rectifier, normalization, output. `arinv.models.generators.mirror.Generator` is the network of a plan.

Sources: Rojas-Gomez et al. 2022, Tables A4, A6, A7 and the released code, which disagree on where the channels of A4
shrink; the code's plan has the published 4.7M parameters and is the default. Dosovitskiy & Brox 2016a, Tables 3 to 7;
those of CONV1 to CONV4 have no table: three convolutions of 256 channels, then the last of CONV5's up-convolutions.
Dosovitskiy & Brox 2016b (DeePSiM), whose generators have no table: ports of the released weights.
"""

import dataclasses
from typing import NamedTuple

from arinv.models.encoders.base import NORMALIZATIONS


class Step(NamedTuple):
    """One step of a plan.

    Attributes:
      kind: "conv"; "up", a transposed convolution (zeros inserted, then a convolution); "nearest", every pixel twice
        along both sides; "dense", whose outputs are reshaped to a square map.
      width: channels of the result.
      stride: stride of "conv" and "up"; side of the map that "dense" returns.
      kernel: side of the kernel of "conv" and "up".
      bias: whether it has biases.
      padding: whether "conv" pads by half of its kernel; otherwise it reads valid positions alone.
    """

    kind: str
    width: int = 0
    stride: int = 1
    kernel: int = 3
    bias: bool = False
    padding: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """A generator as data; the defaults are those of Rojas-Gomez et al.

    Attributes:
      steps: steps before the last one, each followed by normalization and rectifier.
      last: the step that returns the image, followed by `output`.
      streams: steps of parallel streams from the feature, whose results are concatenated before `steps`.
      batch_norm: normalize the results of steps with weights by the statistics of the batch.
      spectral_norm: normalize every kernel by its largest singular value.
      slope: slope of the rectifier below 0; 0 is ReLU.
      output: "tanh", scaled to [0, 1], or "linear", to which offset is added.
      offset: values added to a linear output, for red, green and blue.
      fit: what is done where the output has another side than the image: "" (nothing: the sides are equal), "enlarge"
        (trained against reduced images, enlarged bilinearly in evaluation) or "crop" (to the center).
    """

    steps: tuple[Step, ...]
    last: Step = Step("conv", 3, bias=True)
    streams: tuple[tuple[Step, ...], ...] = ()
    batch_norm: bool = True
    spectral_norm: bool = True
    slope: float = 0.0
    output: str = "tanh"
    offset: tuple[float, float, float] = (0.5, 0.5, 0.5)
    fit: str = ""

    def growth(self) -> int:
        """Returns the output's side over that of the feature, or of the map after the last dense layer."""
        steps = (*self.steps, self.last)
        start = max((i for i, step in enumerate(steps) if step.kind == "dense"), default=0)
        factor = 1
        for step in steps[start + 1 :]:
            factor *= {"up": step.stride, "nearest": 2}.get(step.kind, 1)
        return factor


def conv(*widths: int) -> tuple[Step, ...]:
    """Returns 3x3 convolutions.

    Args:
      *widths: number of channels after each convolution.

    Returns:
      One step per width.
    """
    return tuple(Step("conv", width) for width in widths)


def up(width: int, stride: int) -> tuple[Step, ...]:
    """Returns a 4x4 transposed convolution: a side of n becomes n + 1 (stride 1) or 2n (stride 2).

    Args:
      width: number of channels of the result.
      stride: 1 or 2.

    Returns:
      One step.
    """
    return (Step("up", width, stride, kernel=4),)


NEAREST = (Step("nearest"),)
_RGB = 3


def _biased(kernel: int, *widths: int, stride: int = 1, padding: bool = True) -> tuple[Step, ...]:
    return tuple(Step("conv", width, stride, kernel, bias=True, padding=padding) for width in widths)


def _ups(kernel: int, *widths: int) -> tuple[Step, ...]:
    return tuple(Step("up", width, 2, kernel, bias=True) for width in widths)


def _dense(*widths: int) -> tuple[Step, ...]:
    """Returns dense layers, then one to a map of 4 x 4 with 256 channels."""
    return (*(Step("dense", width, 1, bias=True) for width in widths), Step("dense", 256, 4, bias=True))


_INVERSE_WIDTHS = (256, 128, 64, 32, _RGB)  # of the up-convolutions from CONV5


def _inverse(steps: tuple[Step, ...], *, streams: tuple[tuple[Step, ...], ...] = (), fit: str = "") -> Plan:
    """Returns a plan of Dosovitskiy & Brox 2016a, whose last step returns the image."""
    return Plan(
        steps[:-1],
        steps[-1],
        streams,
        batch_norm=False,
        spectral_norm=False,
        slope=0.2,
        output="linear",
        fit=fit,
    )


def _inverse_of_layer(num_ups: int) -> Plan:
    return _inverse(_biased(3, 256, 256, 256) + _ups(5, *_INVERSE_WIDTHS[-num_ups:]), fit="enlarge")


def _deepsim(first: tuple[Step, ...]) -> Plan:
    """Returns a plan of DeePSiM: transposed convolutions without biases, and the mean color added to the output."""
    pairs = (Step("up", 256, 2, 4), Step("up", 512), Step("up", 256, 2, 4), Step("up", 256), Step("up", 128, 2, 4))
    ups = (*pairs, Step("up", 128), Step("up", 64, 2, 4), Step("up", 32, 2, 4))
    return Plan(
        (*first, *ups),
        Step("up", _RGB, 2, 4),
        batch_norm=False,
        spectral_norm=False,
        slope=0.3,
        output="linear",
        offset=NORMALIZATIONS["caffe"][0],
        fit="crop",
    )


_HOG = _inverse(
    _biased(3, 256, 128) + _ups(4, 64, 32, _RGB),
    streams=(
        (*_biased(5, 256, 512, stride=2), *_biased(3, 1024, stride=2), *_ups(4, 512, 256, 128)),
        (*_biased(5, 128), *_biased(3, 128)),
    ),
)
_LBP = _inverse(
    _biased(3, 256, 128) + _ups(4, 128, 64, 32, _RGB),
    streams=(
        (*_biased(5, 256, 512, stride=2), *_biased(3, 1024), *_ups(4, 512, 256)),
        (*_biased(5, 128), *_biased(3, 128)),
    ),
)
_SIFT = _inverse(
    (
        *(_biased(5, 256, stride=2) + _biased(3, 512, 1024, 2048, stride=2) + _biased(3, 2048, 1024)),
        *_ups(4, 512, 256, 128, 64, 32, _RGB),
    )
)
_FULLY_CONNECTED = _inverse(_dense(4096, 4096) + _ups(5, *_INVERSE_WIDTHS), fit="enlarge")
# Table 7 has 1000 -> 4096 -> 4096 -> 4096 = 4 x 4 x 256 for FC8, and the same for FC6 and FC7.
_DEEPSIM_DENSE = _deepsim(_dense(4096, 4096))
_DEEPSIM_POOL5 = _deepsim(_biased(3, 512, 512) + _biased(3, 512, padding=False))

# (encoder, layer, variant) -> plan. A variant "default" is what build_generator takes unless another is named.
PAPER_PLANS: dict[tuple[str, str, str], Plan] = {
    ("alexnet", "conv5", "default"): Plan(
        (
            *(conv(256) + up(256, 1) + conv(256) + up(256, 2) + conv(256)),
            *(up(128, 2) + conv(128) + up(64, 2) + conv(64) + up(32, 2) + conv(32) + up(3, 2)),
        )
    ),
    ("alexnet", "conv5", "table_a4"): Plan(
        (
            *(conv(256) + up(256, 1) + conv(256) + up(256, 2) + conv(256) + up(256, 2) + conv(128)),
            *(up(128, 2) + conv(64) + up(64, 2) + conv(32) + up(32, 2) + conv(3)),
        )
    ),
    ("alexnet", "conv5", "interpolation"): Plan(
        (
            *(conv(256) + up(256, 1) + conv(256) + NEAREST + conv(256) + NEAREST + conv(128)),
            *(NEAREST + conv(64) + NEAREST + conv(32) + NEAREST + conv(3)),
        )
    ),
    ("alexnet", "conv2", "default"): Plan(
        (
            *(conv(192) + up(192, 1) + conv(96) + NEAREST + conv(96, 64)),
            *(NEAREST + conv(64) + NEAREST + conv(64) + NEAREST + conv(32, 3)),
        )
    ),
    ("alexnet", "conv1", "default"): Plan(
        (
            *(conv(64) + up(64, 1) + conv(64) + NEAREST + conv(64, 32)),
            *(NEAREST + conv(32) + NEAREST + conv(16, 3)),
        )
    ),
    ("hog", "hog", "default"): _HOG,
    ("lbp", "lbp", "default"): _LBP,
    ("sift", "sift", "default"): _SIFT,
    ("sift_skimage", "sift", "default"): _SIFT,
    ("caffenet", "conv1", "dosovitskiy_brox"): _inverse_of_layer(3),
    ("caffenet", "conv2", "dosovitskiy_brox"): _inverse_of_layer(4),
    ("caffenet", "conv3", "dosovitskiy_brox"): _inverse_of_layer(4),
    ("caffenet", "conv4", "dosovitskiy_brox"): _inverse_of_layer(4),
    ("caffenet", "conv5", "dosovitskiy_brox"): _inverse_of_layer(5),
    ("caffenet", "fc6", "dosovitskiy_brox"): _FULLY_CONNECTED,
    ("caffenet", "fc7", "dosovitskiy_brox"): _FULLY_CONNECTED,
    ("caffenet", "fc8", "dosovitskiy_brox"): _FULLY_CONNECTED,
    ("caffenet", "conv5", "deepsim"): _DEEPSIM_POOL5,
    ("caffenet", "fc6", "deepsim"): _DEEPSIM_DENSE,
    ("caffenet", "fc7", "deepsim"): _DEEPSIM_DENSE,
    ("caffenet", "fc8", "deepsim"): _DEEPSIM_DENSE,
}


def shorten(plan: Plan, image_size: int) -> Plan:
    """Returns a plan for smaller images: one that begins with dense layers loses its first up-convolutions.

    Each is dropped with the steps after it at its resolution, while the output's side is at least twice the images'.
    The last up-convolutions stay, as in the plans of CONV5 to CONV1.

    Args:
      plan: a published plan.
      image_size: side of the images in pixels.

    Returns:
      The shorter plan; the same plan where it has no dense layer.
    """
    dense = [i for i, step in enumerate(plan.steps) if step.kind == "dense"]
    if not dense:
        return plan
    first, side = plan.steps[: dense[-1] + 1], plan.steps[dense[-1]].stride
    rest = list(plan.steps[dense[-1] + 1 :])
    while rest and side * dataclasses.replace(plan, steps=(*first, *rest)).growth() >= 2 * image_size:
        rest.pop(0)
        while rest and rest[0].stride == 1:
            rest.pop(0)
    return dataclasses.replace(plan, steps=(*first, *rest))
