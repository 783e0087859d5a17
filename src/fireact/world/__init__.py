"""The embedded world: real facts on countries, short articles, and questions whose answers code has checked."""
