"""Policies: random, scripted, and models behind chat endpoints."""
