"""The errors: one family, which survives the way between processes."""

import pickle

import pytest

import ringfeed
from ringfeed import errors

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_is_a_ringfeed_error_with_a_public_name(error):
    assert issubclass(error, ringfeed.RingFeedError)
    assert getattr(ringfeed, error.__name__) is error
    assert error.__name__ in ringfeed.__all__


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_comes_through_pickle_as_it_was(error):
    sent = error("ring 'cams': what happened")
    received = pickle.loads(pickle.dumps(sent))
    assert type(received) is error
    assert str(received) == str(sent)


@pytest.mark.parametrize("error", [ringfeed.PreprocessError, ringfeed.WorkerCrashed])
def test_an_item_error_keeps_its_item_through_pickle(error):
    received = pickle.loads(pickle.dumps(error("item 3: bad", 3, "a.png")))
    assert (str(received), received.index, received.item) == ("item 3: bad", 3, "a.png")


def test_the_public_names_of_the_design_are_all_there():
    names = """RingFeedError RingFull RingEmpty RingFinished RingClosed RingNotFound RingExists LayoutMismatch
        RecordMismatch NoSpace SlotLost EngineDied WorkerCrashed PreprocessError DeadlineExceeded"""
    for name in names.split():
        assert issubclass(getattr(ringfeed, name), ringfeed.RingFeedError)
