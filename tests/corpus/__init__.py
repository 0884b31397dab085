"""Any folder of scans against independent readers: `make corpus DIR=...`, `python -m tests.corpus DIR...`."""
