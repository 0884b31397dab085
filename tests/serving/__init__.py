"""What servers are given."""
