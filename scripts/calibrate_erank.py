"""Measure erank_avg of a model: the mean effective rank of its projected visual tokens.

    python scripts/calibrate_erank.py model=demo [+images=200] [+seed=3]
    python scripts/calibrate_erank.py model=llava_1_5_7b +directory=PATH +images=2000 +write=true

AgilePruner scales its thresholds by erank / erank_avg, so erank_avg belongs to the model and to the
images it will see. For LLaVA-1.5-7B the release has 90. This measures it, as the released code
computes the effective rank, on scenes of a seed that no suite uses (or, with suite=local or hub, on
the images of the chosen benchmark, or with +directory=PATH on the images in and below a directory,
drawn by the seed), and prints the line for configs/model/<name>.yaml; +write=true puts it there,
with where it is from. The paper took LLaVA's training set; another source than the release says 95.
"""

import logging
import random
import re
import sys
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig, open_dict
from PIL import Image

from agilepruner.cli import CONFIGS
from agilepruner.complexity import effective_rank
from agilepruner.errors import UserError
from agilepruner.runner.plan import identify, plan
from agilepruner.runner.run import load_model
from agilepruner.runner.work import chunks

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def main(config: DictConfig) -> None:
    from evals import tasks

    with open_dict(config):  # this script's own settings
        count, seed = config.pop("images", 200), config.pop("seed", 3)
        directory, write = config.pop("directory", None), config.pop("write", False)
    run = plan(config)
    if directory:
        images, source_words = (
            images_in(Path(directory), count, seed),
            f"images of the directory {Path(directory).resolve().name} (seed {seed})",
        )
    elif config.suite.name == "embedded":
        source_words = f"scenes of seed {seed}"
        from evals.suite import scenes
        from evals.suite.build import SEEDS_PER_SUITE

        first = seed * SEEDS_PER_SUITE + SEEDS_PER_SUITE // 2  # apart from training and suites
        made = (scenes.make(first + i) for i in range(2 * count))
        images = [scene.image for scene in made if not scene.destroyed][:count]
    else:
        source_words = f"images of {next(iter(run.config['benchmark']))}"
        name, settings = next(iter(run.config["benchmark"].items()))
        source = identify(run).sources[name]
        benchmark = tasks.load(name, settings, source, run.config["protocol"], count)
        unique = {document.image_key: document for document in benchmark.documents}
        images = [benchmark.image(document)[0] for document in unique.values()]
    adapter = load_model(run.config["model"])
    ranks = torch.cat(
        [
            effective_rank(tokens.projected)
            for chunk in chunks(images, 8)
            for tokens in adapter.encode(chunk, frozenset())
        ]
    )
    error = float(ranks.std() / len(ranks) ** 0.5)
    said = f"measured: scripts/calibrate_erank.py on {len(ranks)} {source_words}"
    line = f"erank_avg: {ranks.mean():.1f}  # {said}, standard error {error:.2f}"
    print(f"# deviation over images {ranks.std():.1f}")
    print(line)
    if write:
        written(CONFIGS / "model" / f"{run.config['model']['name']}.yaml", line)


def images_in(directory: Path, count: int, seed: int) -> list[Image.Image]:
    """``count`` images in and below a directory, drawn by a seed; what is no image is said.

    Raises:
        UserError: there are fewer than two that can be read.
    """
    known = set(Image.registered_extensions())
    paths = sorted(path for path in directory.rglob("*") if path.suffix.lower() in known)
    found: list[Image.Image] = []
    for path in random.Random(seed).sample(paths, len(paths)):
        if len(found) == count:
            break
        try:
            found.append(Image.open(path).convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            log.warning("left out: %s (%s)", path, error)
    if len(found) < 2:
        raise UserError(
            f"{directory} holds {len(found)} images that can be read, of {len(paths)} files that "
            "are named like one. Give a directory of image files."
        )
    return found


def written(config: Path, line: str) -> None:
    """Put the line in the place of a model config's ``erank_avg``, or at its end."""
    text = config.read_text(encoding="utf-8")
    new, found = re.subn(r"^erank_avg:.*$", lambda _: line, text, flags=re.M)
    config.write_text(new if found else f"{text.rstrip()}\n{line}\n", encoding="utf-8")
    print(f"# written to {config}")


if __name__ == "__main__":
    sys.exit(main())
