"""Jobs: programs that run where the data is, the agents that run them, and what of them may be read."""
