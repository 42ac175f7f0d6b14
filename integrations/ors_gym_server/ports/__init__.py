"""Environments that exist already, as ORS environments: Gymnasium's and OpenEnv's."""
