"""The report of an experiment: what was measured, as Markdown, a self-contained HTML page, JSON and a table."""
