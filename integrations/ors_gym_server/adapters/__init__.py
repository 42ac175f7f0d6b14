"""Existing environments as ORS environments: Gymnasium, OpenEnv, and the reference SDK."""
