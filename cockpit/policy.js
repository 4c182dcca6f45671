// SPDX-License-Identifier: GPL-2.0-or-later
// What was decided about a target, and where each decision is from.

import { element, fillWith } from './element.js';
import { _, counted, fill } from './words.js';

// Where a value is from that was chosen for this target alone: by Enable or SetPolicy.
const CHOSEN = 'set';

/** What differs from the default, as sentences. row: of ListTargets. */
export function decisions(row) {
    const settings = (row.policy ?? []).filter(({ source }) => source).map(({ key, value, source }) => source === CHOSEN
        ? fill(_("$0=$1, set for this target"), key, value)
        : fill(_("$0=$1, from $2"), key, value, source));
    return [
        ...settings,
        ...(row.file ? [fill(_("enabled by $0"), row.file)] : []),
        ...(row.runtime ? [_("until the daemon stops")] : []),
    ];
}

/** The same as an element that opens. */
export class Policy {
    constructor() {
        this.element = element('div', { class: 'policy' });
        this.shown = null;
    }

    show(row) {
        const found = decisions(row);
        const text = found.join('\n');
        if (text === this.shown)
            return;
        this.shown = text;
        if (found.length === 0)
            fillWith(this.element, element('span', { class: 'subtle' }, _("Default")));
        else if (found.length === 1)
            fillWith(this.element, found[0]);
        else
            fillWith(this.element, element('details', {},
                                           element('summary', {}, counted("$0 decision", "$0 decisions", found.length)),
                                           element('ul', {}, found.map(each => element('li', {}, each)))));
    }
}
