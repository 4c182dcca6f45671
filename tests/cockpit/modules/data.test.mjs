// SPDX-License-Identifier: GPL-2.0-or-later

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { why } from '../cockpit/connections.js';
import { wanted } from '../cockpit/filter.js';
import { acceptedFor, sorted } from '../cockpit/findings.js';
import { ANSWERED, KEPT, Paging, SHOWN } from '../cockpit/paging.js';
import { course } from '../cockpit/plot.js';
import { decisions } from '../cockpit/policy.js';
import { ranked } from '../cockpit/reasons.js';
import { ceiling, SPAN_MS, Throughput } from '../cockpit/throughput.js';
import { eligible } from '../cockpit/units.js';
import { plain, variants } from '../cockpit/values.js';
import { duration, endpoint, share, size } from '../cockpit/words.js';

test('variants are taken off, at any depth', () => {
    const row = { name: { t: 's', v: 'x' }, policy: { t: 'aa{sv}', v: [{ key: { t: 's', v: 'a' } }] }, t: { t: 's', v: '' } };
    assert.deepEqual(plain([[row], 3]), [[{ name: 'x', policy: [{ key: 'a' }], t: '' }], 3]);
    assert.deepEqual(plain([null, true, 'text']), [null, true, 'text']);
});

test('options that nobody chose are left out', () => {
    assert.deepEqual(variants({ wait: true, runtime: undefined }, { wait: 'b', runtime: 'b' }), { wait: { t: 'b', v: true } });
});

test('sizes, shares, durations and addresses are written for people', () => {
    assert.equal(size(0), '0 B');
    assert.equal(size(1023), '1,023 B');
    assert.equal(size(1536), '1.5 KiB');
    assert.equal(size(3 * 2 ** 30), '3 GiB');
    assert.equal(size(2 ** 70), '1,048,576 PiB');
    assert.equal(share(0, 0), '');
    assert.equal(share(1, 3), '25%');
    assert.equal(share(999, 1), '99.9%');
    assert.equal(duration(59.9), '59 s');
    assert.equal(duration(7200), '2 h');
    assert.equal(endpoint('127.0.0.1', 80), '127.0.0.1:80');
    assert.equal(endpoint('::1', 80), '[::1]:80');
});

test('throughput is what was counted between two answers', () => {
    const throughput = new Throughput();
    throughput.add(1000, { redirected_bytes: 100, tcp_bytes: 50 });
    assert.equal(throughput.latest, null);
    throughput.add(3000, { redirected_bytes: 2100, tcp_bytes: 50 });
    assert.deepEqual(throughput.latest, { from: 1000, to: 3000, redirected: 1000, tcp: 0 });
    assert.equal(throughput.highest, 1000);
});

test('counters that begin anew are no negative throughput', () => {
    const throughput = new Throughput();
    throughput.add(1000, { redirected_bytes: 100, tcp_bytes: 0 });
    throughput.add(2000, { redirected_bytes: 0, tcp_bytes: 0 });
    assert.deepEqual(throughput.points, []);
    throughput.add(3000, { redirected_bytes: 5, tcp_bytes: 0 });
    assert.equal(throughput.latest.redirected, 5);
});

test('only the last minutes are kept', () => {
    const throughput = new Throughput();
    for (let time = 0; time <= 2 * SPAN_MS; time += 2000)
        throughput.add(time, { redirected_bytes: time, tcp_bytes: 0 });
    assert.equal(throughput.points.length, SPAN_MS / 2000);
});

test('the upper edge of the plot is a round number above what it shows', () => {
    assert.equal(ceiling(0), 1);
    assert.equal(ceiling(3), 5);
    assert.equal(ceiling(1024), 1024);
    assert.equal(ceiling(1500), 2048);
    for (const rate of [1, 999, 1000, 1001, 1023.5, 12345, 5e6, 7e9, 3e12])
        assert.ok(ceiling(rate) >= rate && ceiling(rate) < 5 * rate, String(rate));
});

test('a line of the plot has a step for each point, and a gap where nothing was measured', () => {
    const points = [
        { from: 0, to: 100, redirected: 0, tcp: 0 }, { from: 100, to: 200, redirected: 10, tcp: 0 },
        { from: 300, to: 400, redirected: 10, tcp: 0 },
    ];
    const drawn = course(points, 'redirected', 400, 10);
    assert.deepEqual(drawn.match(/[A-Z]/g).join(''), 'MHLHMH');
    assert.ok(drawn.endsWith('H600.0'));
});

test('reasons that occurred are sorted by how often', () => {
    const counters = [
        { name: 'a_rare', kind: 'message' }, { name: 'never', kind: 'message' }, { name: 'z_often', kind: 'message' },
        { name: 'other', kind: 'connection' }, { name: 'new', kind: 'message' },
    ];
    const stats = { message_reason_a_rare: 1, message_reason_never: 0, message_reason_z_often: 7, connection_reason_other: 9 };
    assert.deepEqual(ranked('message', counters, stats).map(({ name, count }) => [name, count]), [['z_often', 7], ['a_rare', 1]]);
});

test('issues come before notes, and what is unknown before both', () => {
    const findings = ['ok', 'issue', 'strange', 'note'].map(severity => ({ severity }));
    assert.deepEqual(sorted(findings).map(({ severity }) => severity), ['strange', 'issue', 'note', 'ok']);
});

test('a policy names what differs from the default, and where that is from', () => {
    const row = {
        policy: [
            { key: 'BlockingReaders', value: 'yes', source: '/etc/x.conf:3' },
            { key: 'AcceptKernelIssues', value: 'splice fionread', source: 'set' },
            { key: 'JoinDelayMs', value: '100', source: '' },
        ],
        file: '', runtime: true,
    };
    assert.deepEqual(decisions(row), [
        'BlockingReaders=yes, from /etc/x.conf:3', 'AcceptKernelIssues=splice fionread, set for this target',
        'until the daemon stops',
    ]);
    assert.deepEqual(decisions({}), []);
    assert.deepEqual(acceptedFor('fionread', [{ name: 'a', ...row }, { name: 'b', policy: [] }]), ['a']);
    assert.deepEqual(acceptedFor('read', [{ name: 'a', ...row }]), []);
});

test('units that run and can be targets are offered', () => {
    const unit = (name, description, active) => [name, description, 'loaded', active, 'running', '', '/x', 0, '', '/'];
    assert.deepEqual(eligible([
        unit('z.service', 'Z', 'active'), unit('dead.service', 'D', 'inactive'), unit('a.mount', 'A', 'active'),
        unit('docker-1.scope', 'docker-1.scope', 'active'), unit('user.slice', 'Users', 'active'),
    ]), [
        { name: 'docker-1.scope', description: '' }, { name: 'user.slice', description: 'Users' },
        { name: 'z.service', description: 'Z' },
    ]);
});

test('a filter has what stands in its fields, with the types of D-Bus', () => {
    assert.deepEqual(wanted({ target: '', port: ' 80 ', program: 'x ', address: '' }),
                     { port: { t: 't', v: 80 }, program: { t: 's', v: 'x' } });
});

test('a connection says why it is not redirected', () => {
    const row = (client, server, state = 'joined') => ({ client_reason: client, server_reason: server, state });
    assert.equal(why(row('', '')), '');
    assert.equal(why(row('', '', 'candidate')), 'candidate');
    assert.equal(why(row('order', 'order')), 'order');
    assert.equal(why(row('order', '')), 'order to the server');
    assert.equal(why(row('order', 'cork')), 'order to the server, cork to the client');
});

test('pages go on through what the daemon answers, part by part', () => {
    const paging = new Paging();
    paging.count(1000);
    assert.equal(paging.hasPrevious, false);
    paging.move(ANSWERED / SHOWN);
    assert.equal(paging.offset, ANSWERED);
    assert.deepEqual(paging.of([...Array(ANSWERED).keys()]).length, SHOWN);
    paging.move(1);
    assert.equal(paging.of([...Array(ANSWERED).keys()])[0], SHOWN);
    for (let page = 0; page < 100; page += 1)
        paging.move(1);
    assert.equal(paging.first, 992);
    assert.equal(paging.hasNext, false);
});

test('a page that is no longer there becomes the last one', () => {
    const paging = new Paging();
    paging.count(1000);
    paging.move(20);
    assert.equal(paging.count(40), false);
    assert.equal(paging.first, 32);
    assert.equal(paging.count(0), false);
    assert.equal(paging.first, 0);
    assert.equal(paging.count(0), true);
});

test('no page is behind what the daemon keeps', () => {
    const paging = new Paging();
    paging.count(100000);
    for (let page = 0; page < 1000; page += 1)
        paging.move(1);
    assert.equal(paging.first, KEPT - SHOWN);
    assert.equal(paging.hasNext, false);
});
