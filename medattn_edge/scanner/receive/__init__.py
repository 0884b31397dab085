"""The ways in: C-STORE and a watched folder."""
