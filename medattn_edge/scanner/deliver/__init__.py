"""The ways out: C-STORE and STOW-RS to archives, folders, and dead letters."""
