"""How any service of Hortus runs: settings, database, facts in and out, doors, tokens, TLS, problems and logs."""
