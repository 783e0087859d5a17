"""Agents that exist already: a proxy that records their LM calls as trajectories, and scores that are attached later."""
