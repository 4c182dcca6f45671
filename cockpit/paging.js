// SPDX-License-Identifier: GPL-2.0-or-later
// Pages of a long list of which the daemon hands out one part at a time.

/** Rows that this page shows at a time, those in one answer of the daemon, and those that it keeps of a listing. */
export const SHOWN = 32;
export const ANSWERED = 256;
export const KEPT = 8192;

export class Paging {
    constructor() {
        this.first = 0;
        this.total = 0;
    }

    /** Where the daemon's part with the first row begins. */
    get offset() {
        return Math.floor(this.first / ANSWERED) * ANSWERED;
    }

    /** Take how many rows there are now. Returns whether the first row is still one of them. */
    count(total) {
        this.total = total;
        const last = Math.max(0, Math.ceil(this.reachable / SHOWN) - 1) * SHOWN;
        const before = this.first;
        this.first = Math.min(this.first, last);
        return this.first === before;
    }

    /** The rows to show, of the daemon's part that begins at `offset`. */
    of(rows) {
        const begin = this.first - this.offset;
        return rows.slice(begin, begin + SHOWN);
    }

    /** pages: how many to go on, or back if it is negative. */
    move(pages) {
        this.first = Math.max(0, this.first + pages * SHOWN);
        this.count(this.total);
    }

    begin() {
        this.first = 0;
    }

    /** How many of the rows can be shown. */
    get reachable() {
        return Math.min(this.total, KEPT);
    }

    get hasPrevious() {
        return this.first > 0;
    }

    get hasNext() {
        return this.first + SHOWN < this.reachable;
    }
}
