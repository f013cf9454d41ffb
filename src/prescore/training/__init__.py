"""Training of denoisers: losses, weight averaging, the loop."""
