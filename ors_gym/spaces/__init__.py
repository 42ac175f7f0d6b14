"""Gymnasium spaces for text observations and tool-call actions, and JSON-Schema sampling."""

from ors_gym.spaces.spaces import TextSpace, ToolCallSpace

__all__ = ["TextSpace", "ToolCallSpace"]
