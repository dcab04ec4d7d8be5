"""Check versions, GPU, disk, hub and NLTK data; with a run's words also what it would download."""


def run(words: list[str]) -> int:
    """``agilepruner doctor [words of a run]``: every finding; 1 when something will not work."""
    from agilepruner.doctor import main
    from agilepruner.overrides import composed
    from agilepruner.runner.plan import plan

    return main(plan(composed(words)) if words else None)
