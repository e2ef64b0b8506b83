"""The sandbox of a run: bubblewrap with its own root, inputs in memory, a syscall filter and limits."""
