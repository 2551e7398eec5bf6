"""AlexNet with its max-pools replaced by the Haar transform, which throws nothing away: the encoder of the denoiser.

Images NHWC in [0, 1] -> (named features, details by layer). The convolutions have AlexNet's names and shapes, so the
weights of any AlexNet, standard or robust, go straight in.

Source: Rojas-Gomez et al. 2022, section 3.3 and Table A8.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.alexnet import convolution
from arinv.models.normalization import Normalization, normalize
from arinv.ops.inputs import LOOSE_BOUNDS
from arinv.ops.wavelets import Details, haar_analysis
from arinv.types import Array

MULTIPLE, SMALLEST_SIDE = 32, 64  # what the sides of an image must be a multiple of, and not less than


class WaveletAlexNet(nn.Module):
    """The convolutions of AlexNet with Haar analysis behind the first, second and fifth; 2,469,696 parameters.

    Attributes:
      normalization: of the pixels, see `normalization.mean_std`.
      dtype: of the computation; parameters stay float32.
    """

    normalization: Normalization = "imagenet"
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> tuple[dict[str, Array], dict[str, Details]]:
        """Returns the features and the details of images [B, H, W, 3] in [0, 1].

        The features have AlexNet's names, where "conv1", "conv2" and "conv5" are low bands; the details are the
        (LH, HL, HH) that belong to these three.

        Raises:
          UserError: sides that are no multiples of 32 from 64 up, from which no decoder finds back.
        """
        if any(side % MULTIPLE or side < SMALLEST_SIDE for side in images.shape[1:3]):
            raise UserError(
                f"the wavelet encoder takes images whose sides are multiples of {MULTIPLE} from {SMALLEST_SIDE} up; "
                f"got {images.shape[1]} x {images.shape[2]}: pad them, as arinv.apps.denoising.denoise does"
            )
        conv = functools.partial(convolution, dtype=self.dtype)
        features, details = {}, {}
        x = normalize(images, self.normalization, self.dtype, bounds=LOOSE_BOUNDS)  # noisy ones
        x = features["relu1"] = nn.relu(conv(64, 11, strides=4, padding=2, name="conv1")(x))
        x, details["conv1"] = haar_analysis(x)
        features["conv1"] = x
        x = features["relu2"] = nn.relu(conv(192, 5, padding=2, name="conv2")(x))
        x, details["conv2"] = haar_analysis(x)
        features["conv2"] = x
        x = features["conv3"] = nn.relu(conv(384, 3, padding=1, name="conv3")(x))
        x = features["conv4"] = nn.relu(conv(256, 3, padding=1, name="conv4")(x))
        x = features["relu5"] = nn.relu(conv(256, 3, padding=1, name="conv5")(x))
        features["conv5"], details["conv5"] = haar_analysis(x)
        return features, details
