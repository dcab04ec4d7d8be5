"""What a run is doing, and how long it will take."""

import sys

from tqdm import tqdm

from agilepruner.ranks import first


class Progress:
    """A bar over (document, cell) pairs, with cells done and time left, on stderr."""

    def __init__(self, total: int, cells: int) -> None:
        self.cells, self.done = cells, 0
        self.bar = tqdm(
            total=total,
            unit="answer",
            disable=not first(),
            smoothing=0.05,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a log file needs few lines
            maxinterval=60,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} answers{postfix} "
            "[{elapsed}, {remaining} left, {rate_fmt}]",
        )
        self._show()

    def benchmark(self, label: str) -> None:
        """The benchmark being answered."""
        self.bar.set_description_str(f"{label:<8}", refresh=False)

    def documents(self, count: int) -> None:
        """So many more answers are journaled (also those found there)."""
        self.bar.update(count)

    def cell_done(self) -> None:
        """One more cell has a row."""
        self.done += 1
        self._show()

    def _show(self) -> None:
        self.bar.set_postfix_str(f"{self.done}/{self.cells} cells", refresh=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *raised: object) -> None:
        self.bar.close()
