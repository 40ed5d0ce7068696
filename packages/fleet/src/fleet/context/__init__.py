"""The memory: hydrates what an agent may see, records what was decided."""
