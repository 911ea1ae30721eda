"""Published cures that change more of a network than its first weights."""
