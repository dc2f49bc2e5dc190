"""What surrounds one run: its folder, lock, signals, provenance, and files that are whole or absent."""
