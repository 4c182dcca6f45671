// SPDX-License-Identifier: GPL-2.0-or-later
// What accelerating a target would bring, as the daemon's Audit says.

import { Alert } from './alert.js';
import { element, fillWith } from './element.js';
import { _ } from './words.js';

export class AuditReport {
    constructor(daemon) {
        this.daemon = daemon;
        this.alert = new Alert('warning');
        this.found = element('dl', { class: 'audit', 'aria-live': 'polite' });
        this.element = element('div', {}, this.alert.element, this.found);
    }

    clear() {
        this.alert.clear();
        fillWith(this.found);
    }

    async run(target) {
        this.clear();
        this.alert.say(_("Watching for a minute. Nothing is changed."));
        try {
            const [report] = await this.daemon.call('Audit', 'sa{sv}', target, {});
            fillWith(this.found, said(report));
            this.alert.clear();
        } catch (refusal) {
            this.alert.say(refusal.message, refusal.hint && element('p', {}, refusal.hint));
        }
    }
}

/** A report as terms, the programs, and what is said of them. */
function said(report) {
    const exchanges = report.exchanges.flatMap(each => [
        element('dt', {}, `${each.client || '…'} → ${each.server || '…'} :${each.port}`),
        element('dd', {}, each.manner),
        element('dd', {}, each.sentence),
    ]);
    const notes = report.connections ? report.unseen : [];
    return [
        ...report.summary.map(sentence => element('dd', {}, sentence)),
        report.command && element('dd', {}, element('code', {}, report.command)),
        ...exchanges,
        ...notes.map(sentence => element('dd', {}, sentence)),
    ].filter(Boolean);
}
