"""Evaluation: the rollout of held-out questions, and what it says with how much certainty."""
