"""The shapes of what the doors of projects take and answer, by what they are about."""
