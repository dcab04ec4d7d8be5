"""Measure erank_avg of a model: the mean effective rank of its projected visual tokens.

    python scripts/calibrate_erank.py model=demo [+images=200] [+seed=3]

AgilePruner scales its thresholds by erank / erank_avg, so erank_avg belongs to the model and to the
images it will see. For LLaVA-1.5-7B the release has 90. This measures it, as the released code
computes the effective rank, on scenes of a seed that no suite uses (or, with suite=local or hub, on
the images of the chosen benchmark), and prints the line for configs/model/<name>.yaml.
"""

import sys

import hydra
import torch
from omegaconf import DictConfig, open_dict

from agilepruner.cli import CONFIGS
from agilepruner.complexity import effective_rank
from agilepruner.runner.answer import chunks
from agilepruner.runner.plan import identify, plan
from agilepruner.runner.run import load_model


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def main(config: DictConfig) -> None:
    from evals import tasks

    with open_dict(config):  # this script's own settings
        count, seed = config.pop("images", 200), config.pop("seed", 3)
    run = plan(config)
    if config.suite.name == "embedded":
        from evals.suite import scenes
        from evals.suite.build import SEEDS_PER_SUITE

        first = seed * SEEDS_PER_SUITE + SEEDS_PER_SUITE // 2  # apart from training and suites
        made = (scenes.make(first + i) for i in range(2 * count))
        images = [scene.image for scene in made if not scene.destroyed][:count]
    else:
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
    print(f"# mean of {len(ranks)} images, standard error {error:.2f}, deviation {ranks.std():.1f}")
    print(f"erank_avg: {ranks.mean():.1f}")


if __name__ == "__main__":
    sys.exit(main())
