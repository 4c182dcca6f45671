// SPDX-License-Identifier: GPL-2.0-or-later
// A message in a box of a colour. Its kind is also a word, for those who do not see the colour.

import { element, fillWith } from './element.js';
import { _ } from './words.js';

const KINDS = { danger: () => _("Error:"), warning: () => _("Warning:"), info: () => _("Note:") };

/** Hidden until something is said. kind: "danger", "warning" or "info". */
export class Alert {
    constructor(kind, attributes = {}) {
        this.kind = kind;
        this.element = element('div', {
            class: `alert ${kind}`, role: kind === 'info' ? 'status' : 'alert', hidden: true, ...attributes,
        });
    }

    /** title: a sentence. more: elements or texts that follow it. */
    say(title, ...more) {
        fillWith(this.element,
                 element('strong', { class: 'alert-title' },
                         element('span', { class: 'unseen' }, `${KINDS[this.kind]()} `), title),
                 ...more);
        this.element.hidden = false;
    }

    clear() {
        if (this.element.hidden)
            return;
        this.element.hidden = true;
        fillWith(this.element);
    }
}
