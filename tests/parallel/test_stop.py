"""Ctrl-C once and twice."""

import signal

import pytest

from q2pi.parallel.stop import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_requests_a_stop_and_a_second_interrupts(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    previous = signal.getsignal(number)
    with StopRequest("saving") as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is previous
    assert capsys.readouterr().err == "\nsaving (once more to stop at once) ...\n"
