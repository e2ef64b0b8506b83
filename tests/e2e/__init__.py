"""Journeys through the gateway on a whole suite."""
