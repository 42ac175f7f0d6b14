"""The error tree: complete, picklable, and saying what happened, where and what to do."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from ors_gym import errors
from ors_gym.errors import ORSError, StatusError
from ors_gym.http.httpx_transport import _translate_httpx_errors

CLASSES = [cls for name in errors.__all__ if issubclass(cls := getattr(errors, name), ORSError)]


def make(cls: type[ORSError]) -> ORSError:
    return cls(409, "busy") if issubclass(cls, StatusError) else cls("the cable was cut")


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_pickling_with_all_it_knows(cls):
    error = make(cls).at("POST http://localhost/call", session_id="s-1", tool="guess", may_have_run=True)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_takes_positional_arguments_and_hands_them_on(cls):
    error = make(cls)
    assert type(error)(*error.args).args == error.args


def test_every_error_has_its_own_kind_in_snake_case():
    kinds = [cls.kind for cls in CLASSES]
    assert len(set(kinds)) == len(kinds)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", kind) for kind in kinds)


def test_the_docstring_shows_the_whole_tree():
    tree = errors.__doc__ or ""
    assert all(name in tree for name in errors.__all__)
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert defined == set(errors.__all__)


def test_a_message_says_what_where_and_what_to_do():
    error = errors.AmbiguousCallError("cut").at("POST u", session_id="s", tool="guess", may_have_run=True)
    text = "cut [POST u; session s; tool 'guess'; the tool may have run]. Start the episode again on a new session"
    assert str(error) == text


def test_what_is_known_first_is_kept():
    error = errors.ConnectError("no").at("POST a", may_have_run=False).at("POST b", may_have_run=True)
    assert error.where == "POST a"
    assert error.may_have_run is False


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_every_error_of_httpx_is_named_at_the_boundary(library):
    library = pytest.importorskip(library)

    def all_subclasses(cls: type[Exception]) -> set[type[Exception]]:
        return {cls}.union(*(all_subclasses(each) for each in cls.__subclasses__()))

    for cls in all_subclasses(library.HTTPError) | all_subclasses(library.StreamError):
        others = cls.__module__.split(".")[0] != library.__name__  # of another package that was imported
        if others or cls is library.HTTPStatusError:  # only raise_for_status() raises it, which is never called
            continue
        takes_message = "message" in inspect.signature(cls.__init__).parameters
        error = cls("boom") if takes_message else cls()
        with pytest.raises(errors.TransportError), _translate_httpx_errors(library, ""):
            raise error
