"""What this host is: CPU, GPU, clocks, runtimes, and the precision that each really computes in."""
