"""Request and answer shapes of auth, by what they are about."""
