"""Check versions, torchvision, GPU, disk, hub and NLTK data."""


def run(words: list[str]) -> int:
    """Print every finding; 1 when something will not work."""
    from agilepruner.commands import parsed
    from agilepruner.doctor import main

    parsed(words, "agilepruner doctor", ())
    return main()
