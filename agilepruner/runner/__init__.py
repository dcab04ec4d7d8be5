"""From cells to rows: plan, answer, journal, score."""
