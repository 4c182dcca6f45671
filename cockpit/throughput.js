// SPDX-License-Identifier: GPL-2.0-or-later
// Bytes per second by path over the last minutes, from counters that only grow.

/** How much of the past is kept, in ms. */
export const SPAN_MS = 5 * 60 * 1000;

export class Throughput {
    constructor() {
        this.forget();
    }

    /** Begin anew: another daemon may count from zero. */
    forget() {
        this.last = null;
        this.points = [];
    }

    /** time: in ms. counters: of Stats. */
    add(time, counters) {
        const now = { time, redirected: counters.redirected_bytes, tcp: counters.tcp_bytes };
        const before = this.last;
        this.last = now;
        if (!before || now.time <= before.time)
            return;
        const seconds = (now.time - before.time) / 1000;
        const redirected = (now.redirected - before.redirected) / seconds;
        const tcp = (now.tcp - before.tcp) / seconds;
        // The kernel's maps were made anew, and count from zero.
        if (redirected < 0 || tcp < 0)
            return;
        this.points.push({ from: before.time, to: now.time, redirected, tcp });
        this.points = this.points.filter(point => point.to > time - SPAN_MS);
    }

    /** The last of the points { from, to, redirected, tcp }, null where there is none. Rates are bytes per second. */
    get latest() {
        return this.points.at(-1) ?? null;
    }

    get highest() {
        return Math.max(0, ...this.points.flatMap(({ redirected, tcp }) => [redirected, tcp]));
    }
}

/** A round number of bytes per second that is not below a rate: 1, 2 or 5 times a power of 1024 and of ten. */
export function ceiling(rate) {
    let unit = 1;
    while (rate >= unit * 1024)
        unit *= 1024;
    for (const step of [1, 2, 5, 10, 20, 50, 100, 200, 500, 1024]) {
        if (rate <= step * unit)
            return step * unit;
    }
    return 1024 * unit;
}
