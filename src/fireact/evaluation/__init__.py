"""Evaluation: an agent answers held-out questions, and statistics say how certain its scores are."""
