"""Configs and plans, composed as the command line composes them."""

from hydra import compose, initialize_config_dir

from agilepruner.cli import CONFIGS
from agilepruner.runner.plan import plan


def composed(*overrides):
    """The config of a command line."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return compose("config", overrides=list(overrides))


def planned(*overrides):
    """Its validated plan."""
    return plan(composed(*overrides))
