from odeformer.files.errors import reason


def test_the_reason_of_an_error_is_one_line() -> None:
    assert reason(OSError("\nno route to host\n  at line 3\n")) == "no route to host"
    assert reason(KeyError()) == "KeyError"
