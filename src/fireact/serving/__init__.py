"""Agents that deploy: export to other runtimes, an OpenAI-compatible endpoint, and the agent as a tool of others."""
