"""The layer map: what is known of each weighted map of a network."""
