"""The runner for one machine: real servers and all services as child processes, no containers."""
