"""Download and check all that a run needs, and do nothing else: for nodes without internet."""

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)


def run(words: list[str]) -> int:
    """``agilepruner fetch [words of the run]``, e.g. ``agilepruner fetch table=llava_1_5_7b``.

    Checkpoints, the scored splits, and NLTK data where captions are scored; what is here already is
    not fetched again. Every file is then read as the run would read it.
    """
    from agilepruner.errors import NotFinished, UserError
    from agilepruner.hub import cache
    from agilepruner.overrides import composed
    from agilepruner.reporting import show
    from agilepruner.runner.plan import identify, lacking_words, plan
    from agilepruner.runner.run import documents_of
    from evals.chair import fetch_resources

    planned = plan(composed(words))
    if list(lacking_words(planned.config)):
        log.info("downloading NLTK data")
        fetch_resources()
    identified = identify(planned)  # downloads, and says what is lacking
    problems = [_about(planned.config, *each) for each in identified.failed.items()]
    for setting, place in identified.checkpoint.items():
        if setting != "revision":
            show(f"model: {place}")
    for name in identified.sources:
        try:
            count = len(documents_of(identified, name).documents)
            show(_about(planned.config, name, f"{count:,} documents"))
        except UserError as error:
            problems.append(_about(planned.config, name, str(error)))
    if problems:
        raise NotFinished(f"Not everything that the run needs is here. {' '.join(problems)}")
    show(
        f"Everything is here; the hub's files are in {cache()}. Without internet: HF_HUB_OFFLINE=1."
    )
    return 0


def _about(config: Mapping[str, Any], name: str, what: str) -> str:
    return f"{config['benchmark'][name]['label']}: {what}"
