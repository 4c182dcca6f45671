// SPDX-License-Identifier: GPL-2.0-or-later
// What was decided about a target, and where each decision is from.

import { element, fillWith } from './element.js';
import { _, counted, fill } from './words.js';

/** What differs from the default, as sentences. row: of ListTargets. */
export function decisions(row) {
    const chosen = (row.policy ?? []).map(setting).filter(({ source }) => source)
            .map(({ key, value, source }) => fill(_("$0=$1 (from $2)"), key, value, source));
    const accepted = (row.accepted ?? []).map(issue => fill(_("accepts the kernel issue $0"), issue));
    return [
        ...chosen,
        ...accepted,
        ...(row.file ? [fill(_("enabled by $0"), row.file)] : []),
        ...(row.runtime ? [_("until the daemon stops")] : []),
    ];
}

const setting = each => Array.isArray(each) ? { key: each[0], value: each[1], source: each[2] } : each;

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
