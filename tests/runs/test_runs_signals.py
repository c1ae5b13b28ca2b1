"""Signals inside `interruptible`."""

import os
import signal

import pytest

from dashpot.runs.signals import TERMINATION_SIGNALS, Interrupted, interruptible


def test_first_interrupt_is_recorded_and_second_has_the_default_action():
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as check:
        check()
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        with pytest.raises(Interrupted):
            check()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.needs_posix
def test_ignored_signal_stays_ignored_and_any_first_signal_resets_the_others():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with interruptible(TERMINATION_SIGNALS) as check:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == [signal.SIG_DFL] * 2
            with pytest.raises(Interrupted) as stop:
                check()
            assert stop.value.code == 143
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
