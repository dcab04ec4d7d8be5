"""Build the embedded suite, or a bigger one, or one of another seed.

python scripts/build_suite.py                                   # what the repository ships
python scripts/build_suite.py --to DIR --seed 7001 --documents 1000
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from evals.suite import build  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=ROOT / "evals/suite/data")
    parser.add_argument("--seed", type=int, default=build.SEED)
    parser.add_argument("--documents", type=int, default=100, help="per benchmark")
    args = parser.parse_args()
    try:
        suite = build.build(args.seed, args.documents)
    except ValueError as error:
        parser.error(str(error))
    build.write(suite, args.to)
    for benchmark, rows in sorted(suite.rows.items()):
        size = (args.to / f"{benchmark}.parquet").stat().st_size / 1e6
        print(f"{benchmark:14s} {len(rows):5d} documents  {size:5.2f} MB")


if __name__ == "__main__":
    main()
