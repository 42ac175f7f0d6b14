"""ORS servers on Ray Serve."""
