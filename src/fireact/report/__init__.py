"""The report of an experiment: what was measured, as Markdown, as one self-contained HTML page, as JSON and as a table."""
