"""Recording of existing agents: a proxy turns their LM calls into trajectories, and scores are attached later."""
