"""Configs and plans, composed as the command line composes them."""

from hydra import compose, initialize_config_dir

from agilepruner.cli import CONFIGS
from agilepruner.runner import identity
from agilepruner.runner.plan import identify, plan
from agilepruner.runner.run import execute
from evals import sources, tasks


def composed(*overrides):
    """The config of a command line."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return compose("config", overrides=list(overrides))


def planned(*overrides):
    """Its validated plan."""
    return plan(composed(*overrides))


def executed(run):
    """The rows of a plan, run."""
    return execute(identify(run)).rows


def loaded(name, settings, suite, protocol, limit=None):
    """A benchmark over a directory suite."""
    source = sources.directory(suite, name, identity.file_digest)
    return tasks.load(name, settings, source, protocol, limit)
