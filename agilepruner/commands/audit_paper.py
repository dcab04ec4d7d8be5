"""Print what does not add up in the published tables."""


def run(words: list[str]) -> int:
    """Print the audit."""
    from agilepruner.commands import parsed
    from agilepruner.report.audit import audit_text

    parsed(words, "agilepruner audit-paper", ())
    print(audit_text(), end="")
    return 0
