// SPDX-License-Identifier: GPL-2.0-or-later
// A question that is asked again and again, because counters have no signals; and only while somebody looks.

// The daemon may be busy with the answers for no more than a fiftieth of the time. An answer that takes so long may be
// late for other reasons too, so there is one each 20 seconds in any case.
const PAUSE_PER_ANSWER = 49;
const LONGEST_MS = 20000;

/** How long to wait for the next question, in ms. took: how long the answer to the last one took. */
export const pause = (every, took) => Math.max(every, Math.min(took * PAUSE_PER_ANSWER, LONGEST_MS));

/**
 * ask: an async function that asks and shows the answer, and tells by itself what fails.
 * every: the shortest time between two questions, in ms.
 * sight: { hidden } and events "visibilitychange"; usually `cockpit`, which also knows of the frame's tab.
 */
export class Poll {
    constructor(ask, every, sight) {
        this.ask = ask;
        this.every = every;
        this.sight = sight;
        this.wanted = false;
        this.asking = false;
        this.again = false;
        this.timer = null;
        sight.addEventListener('visibilitychange', () => this.now());
    }

    /** Ask now, and from now on while the page is visible. */
    start() {
        this.wanted = true;
        this.now();
    }

    stop() {
        this.wanted = false;
        clearTimeout(this.timer);
        this.timer = null;
    }

    /** Ask at once, if the page is visible; after the present question if there is one. */
    async now() {
        clearTimeout(this.timer);
        this.timer = null;
        if (!this.wanted || this.sight.hidden)
            return;
        if (this.asking) {
            this.again = true;
            return;
        }
        this.asking = true;
        const began = performance.now();
        try {
            await this.ask();
        } finally {
            this.asking = false;
        }
        this.next(performance.now() - began);
    }

    next(took) {
        if (!this.wanted || this.sight.hidden)
            return;
        const wait = this.again ? 0 : pause(this.every, took);
        this.again = false;
        this.timer = setTimeout(() => this.now(), wait);
    }
}
