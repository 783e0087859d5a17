"""Tasks: sets of questions in splits, and how an answer is scored."""
