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
        try {
            const answer = await this.daemon.call('Audit', 'sa{sv}', target, {});
            fillWith(this.found, answer.flat().flatMap(entry));
        } catch (refusal) {
            this.alert.say(refusal.message, refusal.hint && element('p', {}, refusal.hint));
        }
        if (!this.found.children.length && this.alert.element.hidden)
            this.alert.say(_("There is nothing to say about it now."));
    }
}

/** A part of the answer as terms and what is said of them. */
function entry(part) {
    if (part === null || typeof part !== 'object')
        return [element('dd', {}, part)];
    return Object.entries(part).flatMap(([key, value]) => [
        element('dt', {}, key), element('dd', {}, typeof value === 'object' ? JSON.stringify(value) : value)]);
}
