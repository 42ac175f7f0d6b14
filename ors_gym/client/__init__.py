"""The async client of an ORS server and its sessions."""

from ors_gym.client.client import ORSClient
from ors_gym.client.connection import SessionJournal
from ors_gym.client.janitor import Janitor
from ors_gym.client.portal import Portal, shared_portal
from ors_gym.client.session import Session, SessionState
from ors_gym.client.timeouts import Timeouts

__all__ = ["Janitor", "ORSClient", "Portal", "Session", "SessionJournal", "SessionState", "Timeouts", "shared_portal"]
