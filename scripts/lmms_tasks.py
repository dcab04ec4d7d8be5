r"""Tasks for lmms-eval over the embedded suite: its own YAML files over our documents.

    python scripts/lmms_tasks.py build/tasks
    lmms-eval --model agilepruner --model_args model=demo,strategy=divprune,budget=64 \
        --include_path build/tasks --tasks embedded_pope

Of each benchmark that lmms-eval scores with its own functions there is ``embedded_<benchmark>``.
GQA is left out (lmms-eval takes its images from the hub), so are MMBench (a GPT judge) and CHAIR.
"""

import argparse
from pathlib import Path

import lmms_eval
from omegaconf import OmegaConf

from agilepruner.places import CONFIGS, project

NAMES = ("vqav2", "vizwiz", "scienceqa_img", "textvqa", "pope", "mme")


def task(name: str, data: Path) -> dict:
    """The YAML of one benchmark's task: lmms-eval's file, other documents."""
    published = OmegaConf.load(CONFIGS / "benchmark" / f"{name}.yaml").protocols.lmms.task
    path = Path(lmms_eval.__file__).parent / "tasks" / published
    splits = [
        line.split(":")[1].strip()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith(("test_split:", "validation_split:"))
    ]
    files = {split: str(data / f"{name}.parquet") for split in splits or ["test"]}
    return {
        "include": str(path),
        "task": f"embedded_{name}",
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }


def write(folder: Path, data: Path) -> None:
    """Write the YAML files of every benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        text = OmegaConf.to_yaml(OmegaConf.create(task(name, data)))
        (folder / f"embedded_{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    write(folder, Path(project("evals/suite/data")))
    print(
        f"{len(NAMES)} tasks in {folder}: lmms-eval --include_path {folder} --tasks embedded_pope"
    )
