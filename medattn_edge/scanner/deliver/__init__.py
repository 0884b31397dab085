"""The ways out: C-STORE to archives, folders, and dead letters."""
