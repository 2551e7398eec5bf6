"""Progress bars with ETA on stderr. In a log file they speak every ten seconds only; process 0 alone speaks."""

import sys
from collections.abc import Callable, Iterable

import jax
import tqdm


def progress_bar(items: Iterable | None, title: str, **options) -> tqdm.tqdm:
    """Returns a bar over `items`, or one to update by hand.

    Args:
      items: what to iterate over, or None.
      title: shown before the bar.
      **options: of tqdm, such as total, initial and unit.
    """
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm.tqdm(
        items,
        desc=title,
        mininterval=interval,
        maxinterval=interval,
        dynamic_ncols=True,
        disable=jax.process_index() != 0,
        **options,
    )


def progress_callback(title: str) -> Callable[[int, int], None]:
    """Returns a function of (done, total) that shows a bar from its first call on."""
    bar = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = progress_bar(None, title, total=total)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show
