// SPDX-License-Identifier: GPL-2.0-or-later
// What accelerating a target would bring: the daemon watches it for a while on plain TCP, and reports.

import { Alert } from './alert.js';
import { element, fillWith } from './element.js';
import { variants } from './values.js';
import { _, fill } from './words.js';

const SECONDS = 10;

export class AuditReport {
    constructor(daemon) {
        this.daemon = daemon;
        this.alert = new Alert('danger', { id: 'audit-failed' });
        this.found = element('div', { class: 'audit', role: 'status', id: 'report' });
        this.element = element('div', {}, this.alert.element, this.found);
        this.number = 0;
    }

    /** What is still being watched is not shown any more. */
    clear() {
        this.number += 1;
        this.alert.clear();
        fillWith(this.found);
    }

    async run(target) {
        this.clear();
        const { number } = this;
        fillWith(this.found, fill(_("Watching it for $0 seconds; nothing is changed."), SECONDS));
        try {
            const options = variants({ seconds: SECONDS }, { seconds: 'u' });
            const [report] = await this.daemon.call('Audit', 'sa{sv}', target, options);
            if (number === this.number)
                this.show(report);
        } catch (refusal) {
            if (number !== this.number)
                return;
            this.clear();
            this.alert.say(refusal.message, refusal.hint && element('p', {}, refusal.hint));
        }
    }

    show({ summary, exchanges, more, unseen }) {
        const item = text => element('li', {}, text);
        fillWith(this.found,
                 summary.map(sentence => element('p', {}, sentence)),
                 exchanges.length ? element('ul', {}, exchanges.map(each => item(described(each)))) : null,
                 more ? element('p', {}, fill(_("And $0 more."), more)) : null,
                 unseen.length ? element('details', {}, element('summary', {}, _("What an audit cannot see")),
                                         element('ul', {}, unseen.map(item))) : null);
    }
}

/** Connections alike as a sentence. "" for a program: it is on another host. */
export function described({ client, server, port, manner, sentence }) {
    return fill(_("$0 to $1, port $2 ($3): $4"), client || _("another host"), server || _("another host"), port, manner,
                sentence);
}
