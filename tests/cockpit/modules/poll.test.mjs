// SPDX-License-Identifier: GPL-2.0-or-later

import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';

import { pause, Poll } from '../cockpit/poll.js';

// Timers that end when the test says so.
let timers;
const real = { setTimeout, clearTimeout };

beforeEach(() => {
    timers = new Map();
    globalThis.setTimeout = (run, wait) => {
        const timer = {};
        timers.set(timer, { run, wait });
        return timer;
    };
    globalThis.clearTimeout = timer => timers.delete(timer);
});

afterEach(() => Object.assign(globalThis, real));

/** Let what waits for an answer go on. */
const settled = () => new Promise(resolve => setImmediate(resolve));

async function elapse() {
    const [[timer, { run }]] = timers;
    timers.delete(timer);
    run();
    await settled();
}

class Sight extends EventTarget {
    hidden = false;

    become(hidden) {
        this.hidden = hidden;
        this.dispatchEvent(new Event('visibilitychange'));
    }
}

function asked(sight) {
    const counted = { count: 0 };
    const poll = new Poll(async () => {
        counted.count += 1;
    }, 2000, sight);
    return { counted, poll };
}

test('it asks at once, and again after a while', async () => {
    const { counted, poll } = asked(new Sight());
    poll.start();
    await settled();
    assert.equal(counted.count, 1);
    assert.deepEqual(Array.from(timers.values(), ({ wait }) => wait >= 2000), [true]);
    await elapse();
    assert.equal(counted.count, 2);
});

test('it asks nothing while the page is hidden, and at once when it is seen again', async () => {
    const sight = new Sight();
    const { counted, poll } = asked(sight);
    poll.start();
    await settled();
    sight.become(true);
    assert.equal(timers.size, 0);
    poll.now();
    await settled();
    assert.equal(counted.count, 1);
    sight.become(false);
    await settled();
    assert.equal(counted.count, 2);
    assert.equal(timers.size, 1);
});

test('it asks nothing once it is stopped', async () => {
    const sight = new Sight();
    const { counted, poll } = asked(sight);
    poll.start();
    await settled();
    poll.stop();
    assert.equal(timers.size, 0);
    sight.become(false);
    await settled();
    assert.equal(counted.count, 1);
});

test('it has one question at a time, and asks again at once if it was told to meanwhile', async () => {
    let answer, count = 0;
    const poll = new Poll(() => {
        count += 1;
        return new Promise(resolve => {
            answer = resolve;
        });
    }, 2000, new Sight());
    poll.start();
    poll.now();
    poll.now();
    await settled();
    assert.equal(count, 1);
    answer();
    await settled();
    assert.deepEqual(Array.from(timers.values(), ({ wait }) => wait), [0]);
    await elapse();
    assert.equal(count, 2);
});

test('a page that is hidden before the answer asks no more', async () => {
    const sight = new Sight();
    let answer;
    const poll = new Poll(() => new Promise(resolve => {
        answer = resolve;
    }), 2000, sight);
    poll.start();
    sight.become(true);
    answer();
    await settled();
    assert.equal(timers.size, 0);
});

test('the longer an answer takes, the longer is the pause', () => {
    assert.equal(pause(2000, 5), 2000);
    assert.equal(pause(2000, 100), 4900);
    assert.equal(pause(2000, 5000), 20000);
});
