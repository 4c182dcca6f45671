// SPDX-License-Identifier: GPL-2.0-or-later
// A table that becomes a list of cards on a narrow screen. The roles are written out because CSS that changes
// how a table is laid out takes them away.

import { element, say } from './element.js';
import { Rows } from './rows.js';

/**
 * columns: of each { label, name } the label, and the class of its cells.
 * make: gives for an item { cells, show(item) }; cells: an element or a text for each column, of which the first is
 * the row's header.
 */
export class Table {
    constructor(label, columns, make) {
        const body = element('tbody', { role: 'rowgroup' });
        this.element = element('table', { class: 'table', role: 'table', 'aria-label': label },
                               element('thead', { role: 'rowgroup' },
                                       element('tr', { role: 'row' }, columns.map(column => heading(column)))),
                               body);
        this.empty = element('p', { class: 'empty', hidden: true });
        this.rows = new Rows(body, item => {
            const { cells, show } = make(item);
            return { element: row(columns, cells), show };
        });
    }

    /** nothing: what to say where there are no items. */
    show(items, key, nothing) {
        this.rows.show(items, key);
        this.element.hidden = items.length === 0;
        this.empty.hidden = items.length > 0;
        say(this.empty, items.length ? '' : nothing);
    }
}

const heading = ({ label, name }) => element('th', { role: 'columnheader', scope: 'col', class: name }, label);

function row(columns, cells) {
    return element('tr', { role: 'row' }, cells.map((cell, index) => {
        const { label, name } = columns[index];
        const attributes = { class: name, 'data-label': label };
        return index === 0
            ? element('th', { ...attributes, role: 'rowheader', scope: 'row' }, cell)
            : element('td', { ...attributes, role: 'cell' }, cell);
    }));
}
