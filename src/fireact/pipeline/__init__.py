"""Verbs made of verbs: quickstart and improve, and the list of all verbs."""
