"""What tests of refused calls share."""

import pytest

from vecstore import InvalidArgumentError


def refused(call, *parts, error=InvalidArgumentError):
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
    assert type(caught.value) is error
    return caught.value
