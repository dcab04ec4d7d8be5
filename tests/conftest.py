"""What all tests share: one thread, no network, one seed that repeats a failure, the demo model."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # a core per worker (pytest -n); before anything loads torch
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything loads huggingface_hub

import random
import sys
import time
import zlib

import hypothesis
import pytest

hypothesis.settings.register_profile("tests", deadline=None, print_blob=True)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="repeat a run: the seed that a failed run printed")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """A plain environment; one seed for `chance`, for unseeded generators and for hypothesis.

    Hypothesis tries the same examples at every run, so that a failure is the change's; with --seed
    it looks for others.
    """
    for name in list(os.environ):  # what a machine is set up for is not what is tested
        if name.startswith(("WANDB_", "HYDRA_")) or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            del os.environ[name]
    option, worker = config.option, getattr(config, "workerinput", {})
    option.seed_given = option.seed is not None or worker.get("seed_given", False)
    if option.seed is None:
        option.seed = worker.get("seed", time.time_ns() % 10**6)
    if not option.hypothesis_seed:
        option.hypothesis_seed = str(option.seed if option.seed_given else 0)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Workers take the seed of the run (pytest-xdist)."""
    node.workerinput["seed"] = node.config.option.seed
    node.workerinput["seed_given"] = node.config.option.seed_given


def seed_of(item):
    """A seed for one test: the run's seed and the test's name decide it, the order does not."""
    return zlib.crc32(f"{item.config.option.seed} {item.nodeid}".encode())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    random.seed(seed_of(item))
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed_of(item))
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed_of(item))


def pytest_terminal_summary(terminalreporter, config):
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"seed {config.option.seed}: repeat with --seed")


@pytest.fixture
def chance(request):
    """Random choices of a test that the run's seed repeats."""
    return random.Random(seed_of(request.node))


@pytest.fixture(scope="session")
def demo():
    """The demo model, loaded once."""
    from plans import planned

    from agilepruner.runner import run

    return run.load_model(planned().config["model"])


@pytest.fixture
def loaded_once(monkeypatch, demo):
    """Runs in this process share one demo model."""
    from agilepruner.runner import run

    monkeypatch.setattr(run, "load_model", lambda _config: demo)
