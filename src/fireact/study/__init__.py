"""Studies: a matrix of agents, run once, shared where work is equal, and compared with each other and with the paper."""
