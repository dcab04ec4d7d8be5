"""Every strategy that has a YAML in configs/strategy, built as a run would build it."""

from pathlib import Path

import torch
from omegaconf import OmegaConf

from agilepruner.config import build_strategies
from agilepruner.strategies.base import VisualTokens

FOLDER = Path(__file__).parents[1] / "configs" / "strategy"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def build(name: str, folder: Path = FOLDER):
    """The strategy of a YAML, with that file's hyper-parameters."""
    settings = OmegaConf.to_container(OmegaConf.load(folder / f"{name}.yaml"), resolve=True)
    return dict(build_strategies({name: settings}))[name]


ALL = {name: build(name) for name in NAMES}
BEFORE_LLM = {
    name: s
    for name, s in ALL.items()
    if s.family != "decoder" and "resolution" not in s.needs  # selects nothing: see test_resize
}


def random_tokens(seed: int, batch: int, grid: tuple[int, int], dim: int = 80) -> VisualTokens:
    """Everything a model could capture, at random: clusters of patches, peaked attention."""
    make = torch.Generator().manual_seed(seed)
    n = grid[0] * grid[1]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make)

    centres = normal(batch, 6, dim)
    cluster = torch.randint(6, (batch, n, 1), generator=make).expand(-1, -1, dim)
    features = centres.gather(1, cluster) + 0.4 * normal(batch, n, dim)
    return VisualTokens(
        grid,
        features=features,
        projected=features + 0.1 * normal(batch, n, dim),
        attention=(2 * normal(batch, 4, n + 1)).softmax(dim=-1)[..., 1:],
        keys=normal(batch, n, 16),
        cls=normal(batch, dim),
        last_query=normal(batch, dim),
        last_keys=normal(batch, n + 1, dim),
        image_embeds=normal(batch, n, 24),
        text_embeds=normal(batch, 2, 24),
        attention_local=(2 * normal(batch, 4, n + 1)).softmax(dim=-1)[..., 1:],
        received_object=normal(batch, n + 1).softmax(dim=-1)[..., 1:],
        received_deep=normal(batch, n + 1).softmax(dim=-1)[..., 1:],
        seeds=tuple(range(seed, seed + batch)),
    )
