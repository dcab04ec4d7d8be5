"""A command line as a config; what was wrong with one that Hydra cannot compose, and was meant."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agilepruner import commands
from agilepruner.errors import UserError, unknown
from agilepruner.places import CONFIGS, project

ONE_EACH = ("model", "suite", "table", "analysis", "logger", "launcher")
GROUPS = (*ONE_EACH, "strategy", "benchmark")


OmegaConf.register_new_resolver("project", project, replace=True)
OmegaConf.register_new_resolver("commands", commands.listed, replace=True)


def _sweep_directory(results: str, name: str | int) -> str:
    """Where Hydra writes a sweep's record; it does so before the first job checks the name."""
    from agilepruner.config import Name
    from agilepruner.ranges import conform

    return str(Path(str(results)) / conform(Name, name, "name"))


OmegaConf.register_new_resolver("sweep_directory", _sweep_directory, replace=True)


def composed(words: Sequence[str]) -> DictConfig:
    """The config of a command line, for commands that need one.

    Raises:
        UserError: it cannot be composed; in one sentence.
    """
    try:
        one_choice_each(words)
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
            return compose("config", overrides=list(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, words)) from error


def one_choice_each(overrides: Sequence[str]) -> None:
    """Refuse a list of models (suites, tables, analyses, loggers): Hydra would mix settings.

    Raises:
        UserError: with what to type instead.
    """
    for key, _, value in (override.partition("=") for override in overrides):
        if key in ONE_EACH and value.startswith("["):
            raise UserError(
                f"{key}={value}, expected one name: sweep over several with -m {key}={value[1:-1]}."
            )


def explain(error: Exception, arguments: Sequence[str] = ()) -> str:
    """Say in one sentence what was wrong with the command line, and what was meant.

    Hydra's messages name the failed group or key; the nearest known one and the fix are added here.

    Args:
        error: what Hydra raised while it composed the config.
        arguments: the command line, where the message does not name the culprit.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    text = " ".join(str(part) for part in (error, error.__cause__) if part)
    if found := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'\n1\.", text, re.DOTALL):
        key, value = found.groups()
        return (
            f"{key}={value} is several values: put brackets around them for one run, "
            f"{key}=[{value}]; sweep over them with -m; or, where it is one text, give it quotes "
            f"of its own, {_quoted(key, value)}"
        )
    if found := re.search(r"Sweep parameters '(.+)' requires --multirun", text):
        return f"{found[1]} sweeps over values: add -m, or give a list in brackets for one run."
    if "hydra/launcher/submitit" in text:
        return "This launcher is an extra: pip install 'agilepruner[slurm]'."
    if found := re.search(rf"Could not (?:find|load) '({'|'.join(GROUPS)})/([^']*)'", text):
        group, name = found.groups()
        return str(unknown(group, name, names(group)))
    if "Config group override must be" in text:
        for argument in arguments:
            key, _, value = argument.partition("=")
            if not key:
                return f"'{argument}' has no name: write key=value, e.g. budget=64."
            if key in GROUPS and value not in names(key) and value[:1] != "[":
                return str(unknown(key, value, names(key)))
    if found := re.search(r"Could not override '([\w./@]+)'", text):
        return _unknown_setting(found[1], text)
    if found := re.search(r"Error merging override (.*?) Cannot merge", text):
        return f"{found[1]} has another shape than the setting; see `agilepruner --cfg job`."
    cause = text.split("\n")[0].rstrip(".")
    if found := re.match(r"UserError raised while resolving interpolation: (.*)", cause):
        return f"{found[1]}."
    return f"{cause}. Given: {' '.join(arguments)}" if arguments else cause


def _unreadable(override: str) -> str:
    """What to do about an argument that Hydra's grammar does not read."""
    key, equals, value = override.partition("=")
    if not equals:
        near = get_close_matches(override, commands.NAMES, n=1)
        meant = f" Did you mean the command '{near[0]}'?" if near else ""
        return (
            f"'{override}' is neither a command nor a setting.{meant} Settings are written "
            "key=value, e.g. budget=64; `agilepruner --help` lists both."
        )
    if any(value.count(a) != value.count(b) for a, b in ("[]", "{}", "()")):
        return f"{override} has a bracket without its partner."
    if any(value.count(quote) % 2 for quote in "'\""):
        return f"{override} has a quote without its partner."
    if re.search(r"[\[,]\s*[,\]]", value):
        return f"{override} has an empty item: remove the comma."
    return (
        f"The value of {key} has a character that means something to Hydra ('=', braces, brackets, "
        f"a colon): give it quotes of its own inside the shell's, {_quoted(key, value)}"
    )


def _quoted(key: str, value: str) -> str:
    """A setting whose value is one text, as a shell takes it."""
    escaped = value.replace("'", "\\'")
    return f"\"{key}='{escaped}'\""


def _unknown_setting(key: str, text: str) -> str:
    """What was meant by a key that is not in the composed config."""
    from agilepruner.config import known_keys
    from agilepruner.ranges import no_setting

    parent, _, name = key.rpartition(".")
    group, *rest = key.split(".")
    if group == "hydra":
        return f"{key} is no setting of Hydra: `agilepruner --cfg hydra` shows them."
    if key in GROUPS:
        return f"{key} takes names: {', '.join(names(key))}."
    if group in ("strategy", "benchmark") and rest:
        option, *_ = rest
        if option not in names(group):
            return str(unknown(group, option, names(group)))
        if f"Key '{option}' is not in struct" in text:
            return f"{key}: {group} '{option}' is not chosen; add {group}=[{option}]."
        settings = OmegaConf.load(CONFIGS / group / f"{option}.yaml")
        inside = OmegaConf.select(settings, ".".join(rest[1:-1])) if rest[1:-1] else settings
        known = list(map(str, inside)) if isinstance(inside, DictConfig) else []
        return str(no_setting(parent, name, set(known) - {"_target_"}))
    known = known_keys(parent)
    if name in known:
        return f"{key} is not set by this choice of {group}: add it with +{key}=..."
    return str(no_setting(parent, name, [*known, "table"] if not parent else known))


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
