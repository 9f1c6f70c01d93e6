"""The tiers that keep chunks, where they have a face of their own in Python."""
