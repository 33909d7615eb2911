"""What clients are told about an error of the model."""

from __future__ import annotations

import pytest
from serving import Broken, first_number, x_of

import ringfeed


@pytest.mark.parametrize("detail", ["full", "short"])
def test_a_short_error_detail_keeps_the_text_in_the_log(ring, serve, make_client, caplog, detail):
    def secret(given):
        raise ValueError("the path is /srv/models/secret.keras")

    model = Broken()
    serve(ring, model, error_detail=detail)
    model.why = secret
    with pytest.raises(ringfeed.ModelError) as caught:
        make_client(ring).predict(x_of(1), timeout=60)
    text = str(caught.value)
    assert ("/srv/models/secret.keras" in text) == (detail == "full")
    assert "InvalidArgumentError" in text
    assert "/srv/models/secret.keras" in caplog.text
    if detail == "short":
        number = text.split("has error ")[1]
        assert f"error {number}:" in caplog.text


def test_a_wrong_error_detail_is_named(ring):
    with pytest.raises(ValueError, match='error_detail \'long\': give "full" or "short"'):
        ringfeed.Engine(ring, first_number, error_detail="long")


@pytest.mark.parametrize("names", [["__error__"], ["__error__", "__error___"], ["__error___", "y"]])
def test_an_output_may_have_the_name_of_the_error_text(ring, serve, make_client, names):
    serve(ring, lambda x: {name: x[:, 0] + number for number, name in enumerate(names)})
    answer = make_client(ring).predict(x_of(3), timeout=60)
    assert {name: int(answer[name]) for name in answer} == {name: 3 + number for number, name in enumerate(names)}
    with pytest.raises(ringfeed.DeadlineExceeded):
        make_client(ring).predict(x_of(3), timeout=0)
