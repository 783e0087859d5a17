"""Other people's formats of agent episodes: one file each to read one, and what to write for which trainer."""
