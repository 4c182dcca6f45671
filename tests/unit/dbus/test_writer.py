# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written without dbus-next is what dbus-next reads, and descriptors are not lost on a full socket."""

import os
import socket
from array import array

import pytest

from sockaccel.dbus import writer
from sockaccel.dbus.inbox import Frame
from sockaccel.dbus.message import MessageType
from sockaccel.dbus.reader import read_message
from sockaccel.dbus.writer import PatientSocket


@pytest.mark.parametrize('text', ['', 'a', 'sentence', 'Maß'])
def test_an_error(text: str) -> None:
    message, unreadable = read_message(writer.error(5, ':1.7', 9, 'org.example.Error', text))
    assert unreadable == ''
    assert (message.message_type, message.serial, message.reply_serial) == (MessageType.ERROR, 5, 9)
    assert (message.destination, message.error_name, message.body) == (':1.7', 'org.example.Error', [text])


@pytest.mark.parametrize('argument', ['', ':1.1234', 'Maß'])
def test_a_call(argument: str) -> None:
    message, unreadable = read_message(writer.call(5, 'org.example', '/a', 'org.example.I', 'Do', argument))
    assert unreadable == ''
    assert (message.message_type, message.serial) == (MessageType.METHOD_CALL, 5)
    assert (message.destination, message.path, message.interface) == ('org.example', '/a', 'org.example.I')
    assert (message.member, message.signature, message.body) == ('Do', 's', [argument])
    frame = Frame(writer.call(5, 'org.example', '/a', 'org.example.I', 'Do', argument), 1, 0, 5)
    assert frame.first_text() == argument


def test_descriptors_wait_for_room() -> None:
    ours, theirs = socket.socketpair()
    here, there = os.pipe()
    with ours, theirs:
        ours.setblocking(False)
        filled = 0
        while True:
            try:
                filled += ours.send(bytes(65536))
            except BlockingIOError:
                break
        patient = PatientSocket(ours)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array('i', [here]))]
        assert patient.sendmsg([memoryview(b'x')], rights) == 0
        while filled:
            filled -= len(theirs.recv(filled))
        assert patient.send(memoryview(b'x')) == 1
        data, fds, _flags, _address = socket.recv_fds(theirs, 10, 2)
        assert (data, len(fds)) == (b'x', 1)
    for fd in (here, there, *fds):
        os.close(fd)
