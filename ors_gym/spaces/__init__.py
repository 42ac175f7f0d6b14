"""Gymnasium spaces for text observations and tool-call actions, and JSON-Schema sampling."""
