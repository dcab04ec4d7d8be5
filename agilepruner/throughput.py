"""How fast a model was on this machine, and how long other work takes at that speed.

FLOPs are those of ``flops``; images count once for all cells of a benchmark, as the runner encodes
them. A measured speed is that of everything from decoding an image to its answers: FLOPs of
finished cells over the seconds that their journals say.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

HARNESS = 0.08e-3  # seconds of an answer that are no model's: results/scale.md
TIMED = ("encode", "select", "generate")


@dataclass(frozen=True)
class Work:
    """FLOPs and answers of the cells of one benchmark, or of several."""

    flops: float = 0.0
    answers: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.answers + other.answers)

    @classmethod
    def of(cls, cells: Iterable[tuple[Mapping[str, float], int]]) -> "Work":
        """Of the cells of one benchmark: FLOPs of a document by part, and documents."""
        flops = tower = answers = 0.0
        for parts, count in cells:
            flops += (parts["total"] - parts["vision"]) * count
            tower = max(tower, parts["vision"] * count)
            answers += count
        return cls(flops + tower, int(answers))


@dataclass(frozen=True)
class Speed:
    """FLOP/s of a process.

    Attributes:
        flops: FLOP/s of one generation thread, or of the device. source: where that comes from.
        cpu: it was measured on a CPU, where a process has several such threads.
    """

    flops: float
    source: str
    cpu: bool = False

    def times(self, workers: int | None) -> "Speed":
        """Of a process with so many threads; None: as many as it would have."""
        from agilepruner.runner.scorers import cores

        count = (workers or cores()) if self.cpu else 1
        threads = f" in each of {count} threads" if count > 1 else ""
        rate = f"{self.flops / 1e12:.3g} TFLOP/s{threads} ({self.source})"
        return Speed(self.flops * count, rate)

    def seconds(self, work: Work) -> float:
        """Wall time of some work, an estimate."""
        return work.flops / self.flops + work.answers * HARNESS


def measured(results: Path, model: str, dtype: str) -> Speed | None:
    """Speed of a model on this machine, from the newest run that has finished cells of it.

    Args:
        results: directory of runs.
        model: name of its config.
        dtype: of its weights.
    """
    from agilepruner.runner.score import hardware
    from agilepruner.runner.stored import rows_in

    here = hardware()
    runs = [path.parent for path in results.glob("*/cells")]
    for directory in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True):
        rows = [
            row
            for row in rows_in(directory)
            if row.status == "done" and row.model == model
            if (row.environment["hardware"], row.environment["dtype"]) == (here, dtype)
        ]
        by_benchmark = defaultdict(list)
        for row in rows:
            by_benchmark[row.benchmark].append((row.flops, row.n))
        work = sum((Work.of(cells) for cells in by_benchmark.values()), Work())
        spent = sum(row.seconds.get(part, 0.0) for row in rows for part in TIMED)
        if work.flops and spent > 0:
            source = f"measured: {work.answers:,} answers of '{directory.name}' on {here}"
            return Speed(work.flops / spent, source, rows[0].environment["device"] == "cpu")
    return None
