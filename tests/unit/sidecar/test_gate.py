"""The start gate: its rules, with time as an argument; then its socket, against a reflector on the loopback interface."""

import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wharfinger_sidecar._gate import AWARE, MAGIC, RETRY_S, UNAWARE, Gate
from wharfinger_sidecar._wait import wait_for_gate

NONCE = b"abcdef"


def test_first_question_is_asked_at_once_and_has_sixteen_bytes():
    gate = Gate(NONCE, now=100.0, timeout_s=10.0)
    assert gate.ask(100.0) == b"wharfingerabcdef"
    assert len(gate.question) == 16


def test_question_is_repeated_every_fifty_milliseconds():
    gate = Gate(NONCE, now=0.0, timeout_s=10.0)
    gate.ask(0.0)
    assert gate.ask(0.049) is None
    assert gate.wait_s(0.049) == pytest.approx(0.001)
    assert gate.ask(0.05) == gate.question
    assert gate.questions == 2


def test_the_same_bytes_back_open_the_gate_aware():
    gate = Gate(NONCE, now=5.0, timeout_s=10.0)
    gate.hear(gate.ask(5.0), 5.002)
    assert (gate.outcome, gate.questions) == (AWARE, 1)
    assert gate.waited_s == pytest.approx(0.002)
    assert gate.ask(5.1) is None


@settings(deadline=None)
@given(st.binary(max_size=64).filter(lambda datagram: datagram != MAGIC + NONCE))
def test_any_other_bytes_change_nothing(datagram):
    gate = Gate(NONCE, now=0.0, timeout_s=10.0)
    gate.ask(0.0)
    gate.hear(datagram, 0.001)
    assert gate.outcome is None


def test_deadline_lets_the_pod_start_unaware():
    gate = Gate(NONCE, now=0.0, timeout_s=1.0)
    now = 0.0
    while gate.outcome is None:
        gate.ask(now)
        now += gate.wait_s(now)
    assert (gate.outcome, gate.waited_s, gate.questions) == (UNAWARE, 1.0, round(1.0 / RETRY_S))


def test_first_outcome_stands():
    gate = Gate(NONCE, now=0.0, timeout_s=0.01)
    gate.ask(0.01)
    gate.hear(gate.question, 0.02)
    assert gate.outcome == UNAWARE
    assert gate.wait_s(0.02) == 0.0


def test_nonce_of_another_length_is_refused():
    with pytest.raises(ValueError, match="5 bytes, must have 6"):
        Gate(b"abcde", now=0.0, timeout_s=1.0)


def test_gate_opens_when_its_datagrams_come_back():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reflector:
        reflector.bind(("127.0.0.1", 0))
        reflector.settimeout(5)

        def reflect() -> None:
            reflector.recvfrom(64)  # the first one is lost, as before the attachment
            datagram, address = reflector.recvfrom(64)
            reflector.sendto(b"somebody else's", address)
            reflector.sendto(datagram, address)

        thread = threading.Thread(target=reflect)
        thread.start()
        gate = wait_for_gate(5.0, reflector.getsockname())
        thread.join()
    assert gate.outcome == AWARE
    assert gate.questions >= 2
    assert RETRY_S <= gate.waited_s < 1.0


def test_port_unreachable_is_no_answer_and_costs_no_spinning():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
    gate = wait_for_gate(0.3, address)
    assert gate.outcome == UNAWARE
    assert gate.questions <= 6
