// SPDX-License-Identifier: GPL-2.0-or-later
// The children of an element in step with a list: one that stays in the list keeps its element, and the focus in it.

/**
 * container: the element.
 * make: gives for an item { element, show(item) }.
 */
export class Rows {
    constructor(container, make) {
        this.container = container;
        this.make = make;
        this.made = new Map();
    }

    /** key: gives the string by which an item is the same as an earlier one. */
    show(items, key) {
        const keys = new Set(items.map(key));
        for (const [old, row] of this.made) {
            if (!keys.has(old)) {
                row.element.remove();
                this.made.delete(old);
            }
        }
        let place = this.container.firstChild;
        for (const item of items) {
            const row = this.row(key(item), item);
            row.show(item);
            if (row.element === place)
                place = place.nextSibling;
            else
                this.container.insertBefore(row.element, place);
        }
    }

    row(key, item) {
        if (!this.made.has(key))
            this.made.set(key, this.make(item));
        return this.made.get(key);
    }
}
