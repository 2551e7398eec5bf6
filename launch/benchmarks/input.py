"""How many images a second the input delivers: CIFAR-10 from memory, and what Grain streams.

As the trainer takes them: batches of 128 uint8 images of 32 px in shuffled order, placed on the device. "memory" is the
path of sets of under 2 GB; "grain" is that of larger ones, with images that need no decoding; "grain_png" decodes each.
The images are random, the sizes those of CIFAR-10: 50,000 images, a PNG of about 3 kB each, which is somewhat more than
a photograph of that size has.
"""

import io
from typing import Any

from launch.benchmarks.measurement import Benchmark, Options, Prepared

EXAMPLES, SIZE = 50_000, 32
_BATCH = 128


class Images:
    """A source of random images, as arrays or as PNG files in memory."""

    def __init__(self, num_examples: int, *, as_png: bool):
        import numpy as np
        from PIL import Image

        from arinv import data

        self.info = data.SourceInfo("random", "train", num_examples, 10, (), SIZE)
        self.num_skipped = 0
        rng = np.random.default_rng(0)
        self._labels = rng.integers(0, 10, num_examples).astype(np.int32)
        self._images: Any = rng.integers(0, 256, (num_examples, SIZE, SIZE, 3), dtype=np.uint8)
        if as_png:
            files = []
            for image in self._images:
                file = io.BytesIO()
                Image.fromarray(image).save(file, format="PNG")
                files.append(file.getvalue())
            self._images = files
        self._as_png = as_png

    def __len__(self) -> int:
        return self.info.num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        from arinv.data.decoding import decode_image

        image = self._images[index]
        if self._as_png:
            image = decode_image(image, name=f"image {index}")
        return {"image": image, "label": int(self._labels[index])}

    def read_labels(self):
        """Returns all labels."""
        return self._labels


def prepare(case: str, options: Options, *, num_examples: int | None = None) -> Prepared:
    """Opens the input of a case."""
    import jax

    from arinv import data, parallel
    from launch.benchmarks import jax_steps

    batch_size = options.batch or _BATCH
    source = Images(num_examples or EXAMPLES, as_png=case == "grain_png")
    batches = data.train_batches(source, batch_size=batch_size, seed=0, in_memory=case == "memory")
    mesh = parallel.make_mesh()

    def run(n: int) -> None:
        for _ in range(n):
            placed = parallel.place_batch(next(batches), mesh)
        jax.block_until_ready(placed)

    return Prepared(run, {"images": batch_size, "compile_seconds": 0.0, **jax_steps.facts()})


BENCHMARK = Benchmark(cases=("memory", "grain", "grain_png"), variants={"arinv": prepare})
