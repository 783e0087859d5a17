"""Deployment of agents: export to other runtimes, an OpenAI-compatible endpoint, and the agent as an MCP tool."""
