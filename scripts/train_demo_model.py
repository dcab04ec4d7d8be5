"""Train the embedded demo model from nothing but generated scenes (2 CPU cores, about two hours).

    python scripts/train_demo_model.py render   --work DIR
    python scripts/train_demo_model.py vision   --work DIR --minutes 16
    python scripts/train_demo_model.py language --work DIR --minutes 70
    python scripts/train_demo_model.py export   --work DIR --to evals/demo_model

Nobody needs to run this to use the harness: the trained model is in the repository. DIR receives
about 8 GB. Each stage can be stopped at any time; its last checkpoint is usable.
"""

import argparse
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STAGES = ("render", "tokenizer", "vision", "language", "export", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, checkpoints")
    parser.add_argument("--minutes", type=float, help="wall time of a training stage")
    parser.add_argument("--learning-rate", type=float, help="AdamW's; Muon takes twice as much")
    parser.add_argument("--start", type=Path, help="checkpoint to continue from")
    parser.add_argument(
        "--progress", type=float, default=0.0, help="where in the language plan to begin, 0 to 1"
    )
    parser.add_argument("--name", help="checkpoint name, default: the stage's")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--images", type=int, default=20_000, help="training images to render")
    parser.add_argument("--to", type=Path, help="where export writes the model")
    parser.add_argument("--suite", type=Path, default=ROOT / "evals/suite/data", help="to evaluate")
    parser.add_argument("--share", type=float, default=1.0, help="share of images to evaluate")
    parser.add_argument("--no-captions", action="store_true", help="evaluate without CHAIR")
    parser.add_argument(
        "--settings",
        nargs="+",
        default=["chance", "blind", "full", "random@32", "cls@32", "diverse@32", "hybrid@32"],
        help="what evaluate compares",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    if args.stage == "render":
        from scripts.demo_training import data

        data.render(args.work / "validation", "validation", 1000, args.processes)
        data.render(args.work / "train", "train", args.images, args.processes)
    elif args.stage == "tokenizer":
        from scripts.demo_training import data, tokenizer

        tokenizer.save(data.load(args.work / "validation").scenes, args.work / "tokenizer")
    elif args.stage == "vision":
        if not _in_group():
            sys.exit(_start_group(args.processes))
        from scripts.demo_training import data, vision

        vision.train(
            data.load(args.work / "train"),
            data.load(args.work / "validation"),
            to=args.work / f"{args.name or 'vision'}.pt",
            minutes=args.minutes or 16,
            peak=args.learning_rate or 1.5e-3,
            start=args.start,
        )
    elif args.stage == "language":
        if not _in_group():
            sys.exit(_start_group(args.processes))
        from scripts.demo_training import data, language

        language.train(
            data.load(args.work / "train"),
            tokenizer_folder=args.work / "tokenizer",
            tower=args.work / "vision.pt",
            to=args.work / f"{args.name or 'language'}.pt",
            minutes=args.minutes or 75,
            peak=args.learning_rate or 1.1e-3,
            start=args.start,
            first=args.progress,
        )
    elif args.stage == "export":
        from scripts.demo_training.export import export

        checkpoint = args.start or args.work / "language.pt"
        export(checkpoint, args.work / "tokenizer", args.to or args.work / "export")
    elif args.stage == "evaluate":
        from scripts.demo_training.evaluate import table

        model = args.to or ROOT / "evals/demo_model"
        print(table(model, args.suite, args.settings, args.share, captions=not args.no_captions))


def _in_group() -> bool:
    return "RANK" in os.environ


def _start_group(processes: int) -> int:
    """Run this same command once per process, with the variables torch.distributed reads."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    children = [
        subprocess.Popen([sys.executable, *sys.argv], env=os.environ | group | {"RANK": str(rank)})
        for rank in range(processes)
    ]
    return max(child.wait() for child in children)


if __name__ == "__main__":
    main()
