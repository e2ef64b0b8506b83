"""The certificate authority: short-lived certificates for people in projects, for node agents and for running jobs."""
