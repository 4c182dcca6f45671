# SPDX-License-Identifier: GPL-2.0-or-later
"""One socket in several processes or under several descriptors."""

import os
import signal
import socket
import subprocess

from tests.conformance.bench import Bench, Call, pattern, text, verdict
from tests.conformance.catalogue import BLOCKING, BOTH, Observation, behaviour


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@behaviour('fork: the child serves the connection, the parent closes its copy', readers=BOTH)
def fork_and_serve(bench: Bench) -> Observation:
    pair = bench.pair()

    def serve() -> None:
        pair.client.close()
        for _ in range(20):
            bench.write_all(pair.server, bench.read_bytes(pair.server, 10)[::-1])

    with bench.process(serve) as pid:
        pair.server.close()
        answers = []
        for number in range(20):
            message = b'%010d' % number
            bench.write_all(pair.client, message)
            answers.append(bench.read_bytes(pair.client, 10) == message[::-1])
        code = status(pid)
    return {'answers right': all(answers), 'child exits': code, 'the client then reads': bench.read(pair.client)}


@behaviour('fork: parent and child take turns reading one socket', readers=BOTH)
def fork_and_share(bench: Bench) -> Observation:
    pair = bench.pair()
    turn, results = socket.socketpair(), socket.socketpair()

    def read_on_demand() -> None:
        while turn[1].recv(1) == b'.':
            results[1].send(bench.read_bytes(pair.server, 100))

    sent, received = pattern(4000), b''
    with bench.process(read_on_demand):
        for start in range(0, len(sent), 200):
            bench.write_all(pair.client, sent[start : start + 200])
            received += bench.read_bytes(pair.server, 100)
            turn[0].send(b'.')
            received += results[0].recv(100)
        turn[0].send(b'!')
    return {'they read': verdict(received, sent)}


@behaviour('fork: the child exits without a word, the parent goes on', readers=BOTH)
def child_exits(bench: Bench) -> Observation:
    pair = bench.pair()
    with bench.process(lambda: None) as pid:
        status(pid)
    bench.write_all(pair.client, b'question')
    question = bench.read(pair.server)
    bench.write_all(pair.server, b'answer')
    return {'the server reads': question, 'the client reads': bench.read(pair.client)}


@behaviour('SCM_RIGHTS: the reader passes its socket on while traffic runs', readers=BOTH)
def pass_reader(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(3_000_000)
    ours, theirs = socket.socketpair()
    results_in, results_out = os.pipe()

    def take_over() -> None:
        pair.client.close()
        pair.server.close()
        _, [fd], _, _ = socket.recv_fds(theirs, 1, 1)
        server = socket.socket(fileno=fd)
        bench.set_mode(server)
        rest, end = bench.read_to_end(server)
        with os.fdopen(results_out, 'wb') as results:
            results.write(rest + end.encode())

    with bench.process(take_over):
        os.close(results_out)

        def write() -> None:
            bench.write_all(pair.client, sent)
            pair.client.close()

        writer = Call(write)
        writer.start()
        received = bench.read_bytes(pair.server, 1_000_000)
        socket.send_fds(ours, [b'.'], [pair.server.fileno()])
        pair.server.close()
        with os.fdopen(results_in, 'rb') as results:
            received += results.read()
        writer.result()
    return {'the two read': verdict(received, sent + b'EOF')}


@behaviour('SCM_RIGHTS: the writer passes its socket on', readers=BOTH)
def pass_writer(bench: Bench) -> Observation:
    pair = bench.pair()
    ours, theirs = socket.socketpair()

    def write_the_rest() -> None:
        pair.client.close()
        _, [fd], _, _ = socket.recv_fds(theirs, 1, 1)
        client = socket.socket(fileno=fd)
        bench.set_mode(client)
        bench.write_all(client, b'and from the second')

    with bench.process(write_the_rest):
        bench.write_all(pair.client, b'from the first ')
        socket.send_fds(ours, [b'.'], [pair.client.fileno()])
        pair.client.close()
        received, end = bench.read_to_end(pair.server)
    return {'the server reads': text(received), 'and then': end}


@behaviour('dup: the first descriptor is closed, the copy goes on', readers=BOTH)
def dup(bench: Bench) -> Observation:
    pair = bench.pair()
    client, server = (sock.dup() for sock in pair)
    for sock in (client, server):
        bench.set_mode(sock)
    for sock in pair:
        sock.close()
    bench.write_all(client, b'question')
    question = bench.read(server)
    bench.write_all(server, b'answer')
    answer = bench.read(client)
    client.close()
    return {'the server reads': question, 'the client reads': answer, 'and at the end': bench.read(server)}


@behaviour('dup2: another connection in the place of the first', readers=BOTH)
def dup2(bench: Bench) -> Observation:
    first, second = bench.pair(), bench.pair()
    os.dup2(second.client.fileno(), first.client.fileno())
    end = bench.read(first.server)
    bench.write_all(first.client, b'by the old descriptor')
    return {'the first server reads': end, 'the second server reads': bench.read(second.server)}


@behaviour('exec: cat serves the connection as its stdin and stdout', readers=BLOCKING)
def exec_cat(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(500_000)
    with subprocess.Popen(['cat'], stdin=pair.server.fileno(), stdout=pair.server.fileno()) as cat:
        pair.server.close()

        def write() -> None:
            bench.write_all(pair.client, sent)
            pair.client.shutdown(socket.SHUT_WR)

        writer = Call(write)
        writer.start()
        received, end = bench.read_to_end(pair.client)
        writer.result()
        code = cat.wait()
    return {'the client reads': verdict(received, sent), 'and then': end, 'cat exits': code}


@behaviour('fork: a writer stopped by SIGSTOP and continued', readers=BOTH)
def stopped_writer(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(2_000_000)

    def write() -> None:
        bench.write_all(pair.client, sent)
        signal.pause()

    with bench.process(write) as pid:
        received = bench.read_bytes(pair.server, 500_000)
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        os.kill(pid, signal.SIGCONT)
        received += bench.read_bytes(pair.server, len(sent) - len(received))
    return {'the server reads': verdict(received, sent)}
