"""Whatever may crash runs in a process of its own: how one is started, asked and ended."""
